"""Draw tables and picture of docs/results/amplification.md from the run of amplification.yaml.

stabfw run examples/amplification.yaml
python examples/amplification_table.py runs/amplification docs/results/amplification.png

The picture needs matplotlib, which comes with MLflow.
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


def main(directory: Path, picture: Path | None = None) -> None:
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
    if picture is not None:
        draw(results, picture)


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


def draw(results: Results, path: Path) -> None:
    """Draw what stacks change beyond the noise floor, from clean to the strongest severity."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines: dict[tuple[str, str], dict[str, list[MetricValue]]] = {}
    clean = {
        (c.condition.model, c.condition.stack): c.metrics["excess_divergence"]
        for c in results.comparisons
        if c.condition.perturbation == "clean"
    }
    for c in results.comparisons:
        at = c.condition
        if at.perturbation != "clean":
            panel = lines.setdefault((at.model, at.perturbation.partition(" ")[0]), {})
            line = panel.setdefault(at.stack, [clean[at.model, at.stack]])
            line.append(c.metrics["excess_divergence"])
    models = list(dict.fromkeys(model for model, _ in lines))
    kinds = list(dict.fromkeys(kind for _, kind in lines))
    size = (2.2 * len(kinds), 2.6 * len(models))
    figure, axes = pyplot.subplots(
        len(models), len(kinds), sharex=True, sharey=True, figsize=size, layout="constrained"
    )
    for (model, kind), panel in lines.items():
        axis = axes[models.index(model), kinds.index(kind)]
        for place, (stack, values) in enumerate(panel.items()):
            # Side by side, so that intervals do not hide each other.
            x = [i + (place - len(panel) / 2) * 0.07 for i in range(len(values))]
            y = [100 * (v.value or 0) for v in values]
            reach = [
                [
                    100 * abs((end or 0) - (v.value or 0))
                    for v, end in zip(values, ends, strict=True)
                ]
                for ends in ([v.low for v in values], [v.high for v in values])
            ]
            marks = {"marker": "osD^v"[place % 5], "markersize": 3}
            axis.errorbar(x, y, reach, label=stack, linewidth=1, elinewidth=0.8, **marks)
        axis.set_xticks(range(4), ["clean", "weak", "middle", "strong"], fontsize=8)
        axis.grid(axis="y", linewidth=0.3)
        if model == models[0]:
            axis.set_title(kind, fontsize=10)
    for model, row in zip(models, axes, strict=True):
        row[0].set_ylabel(f"{model}\nanswers changed, %", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)


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
    main(*map(Path, sys.argv[1:]))
