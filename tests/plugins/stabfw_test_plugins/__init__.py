"""Plugins that exist to test the core with: fast, deterministic, and broken where wanted."""
