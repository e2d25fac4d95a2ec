"""Draw the tables of docs/results/amplification.md from the run of amplification.yaml.

stabfw run examples/amplification.yaml
python examples/amplification_table.py runs/amplification
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from stabfw.metrics import MetricValue
from stabfw.report.across import ALL_PERTURBATIONS
from stabfw.report.layout import RESULTS
from stabfw.report.results import Comparison, Results, Role
from stabfw.report.serialise import load_results

ALPHA = 0.05


def main(directory: Path) -> None:
    """Print what stacks change on clean questions, what perturbations add, and where."""
    results = load_results(directory / RESULTS)
    summaries = {
        (s.condition.model, s.condition.stack): s.metrics
        for s in results.summaries
        if s.condition.perturbation == ALL_PERTURBATIONS
    }
    clean = {
        (c.condition.model, c.condition.stack): c
        for c in results.comparisons
        if c.condition.perturbation == "clean"
    }
    kinds = [
        name.removeprefix("amplification.")
        for name in next(iter(summaries.values()))
        if name.startswith("amplification.")
    ]
    print("| model | stack | changed, clean | amplification | p, Holm |\n|---|---|---|---|---|")
    for at, metrics in summaries.items():
        changed, mean = clean[at].metrics["divergence_ratio"], metrics["amplification"]
        claim = _p(metrics["amplification_p_holm"])
        print(f"| {' | '.join(at)} | {_share(changed)} | {_points(mean)} | {claim} |")
    print(f"\n| model | stack | {' | '.join(kinds)} |\n|{'---|' * (2 + len(kinds))}")
    for at, metrics in summaries.items():
        print(f"| {' | '.join(at)} | {' | '.join(_kind(metrics, kind) for kind in kinds)} |")
    _every_input(results)


def _every_input(results: Results) -> None:
    """Print each perturbed input: the baseline's accuracy and every stack's amplification."""
    stacks = list(dict.fromkeys(c.condition.stack for c in results.comparisons))
    rows: dict[tuple[str, str], dict[str, Comparison]] = {}
    for c in results.comparisons:
        at = c.condition
        rows.setdefault((at.model, at.perturbation), {})[at.stack] = c
    accuracy = {
        (cell.condition.model, cell.condition.perturbation): cell.accuracy.value
        for cell in results.cells
        if cell.condition.role is Role.BASELINE
    }
    floor = max(c.floor["divergence_ratio"].value or 0 for c in results.comparisons)
    print(f"\nlargest noise floor: {100 * floor:.1f} %")
    print(f"\n| model | input | right, % | {' | '.join(stacks)} |\n|{'---|' * (3 + len(stacks))}")
    for at, cells in rows.items():
        right = accuracy.get(at)
        told = "–" if right is None else f"{100 * right:.1f}"
        each = [
            _share(cells[s].metrics["divergence_ratio"])
            if at[1] == "clean"
            else _points(cells[s].metrics["perturbation_amplification"])
            for s in stacks
        ]
        print(f"| {' | '.join(at)} | {told} | {' | '.join(each)} |")


def _kind(metrics: Mapping[str, MetricValue], kind: str) -> str:
    told = _points(metrics[f"amplification.{kind}"])
    p = metrics[f"amplification_p_holm.{kind}"].value
    return f"**{told}**" if p is not None and p < ALPHA else told


def _share(metric: MetricValue) -> str:
    assert metric.value is not None
    assert metric.low is not None
    assert metric.high is not None
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def _points(metric: MetricValue) -> str:
    assert metric.value is not None
    assert metric.low is not None
    assert metric.high is not None
    return f"{100 * metric.value:+.1f} [{100 * metric.low:+.1f}, {100 * metric.high:+.1f}]"


def _p(metric: MetricValue) -> str:
    assert metric.value is not None
    return f"{metric.value:.2g}" if metric.value >= 0.001 else "< 0.001"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
