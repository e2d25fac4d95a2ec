"""Measures what the framework costs, as ratios within one run: `make perf`."""
