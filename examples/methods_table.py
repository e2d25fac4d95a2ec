"""Draw the tables of docs/results/methods.md from the run of methods.yaml.

stabfw run examples/methods.yaml
python examples/methods_table.py runs/methods
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from stabfw.metrics.intervals import paired_difference_interval
from stabfw.report.instances import UNCHANGED, InstanceRow, read_instances
from stabfw.report.layout import INSTANCES, RESULTS, cell_directory
from stabfw.report.results import CellResult, Role
from stabfw.report.serialise import load_results

Cells = dict[tuple[str, str], list[InstanceRow]]


def main(directory: Path) -> None:
    """Print two tables: what changed beside the blind control, and what it cost."""
    results = load_results(directory / RESULTS)
    cells: Cells = {}
    for comparison in results.comparisons:
        at = comparison.condition
        rows = read_instances(cell_directory(directory, at) / INSTANCES)
        cells.setdefault((at.model, at.stack), []).extend(rows)
    models = list(dict.fromkeys(model for model, _ in cells))
    stacks = [stack for stack in dict.fromkeys(stack for _, stack in cells) if "@" not in stack]
    controls = {
        c.condition.stack.partition("@")[2]: c.condition.stack
        for c in results.comparisons
        if c.condition.role is Role.EQUAL_BUDGET
    }
    flops = _flops(results.cells)

    def changed(model: str, stack: str) -> str:
        rows = cells[model, stack]
        told = f"{100 * _share(rows):.1f}"
        if (control := controls.get(stack)) is None:
            return told
        blind = cells[model, control]
        low, high = _difference(rows, blind)
        told = f"**{told}**" if high < 0 else f"*{told}*" if low > 0 else told
        return f"{told} ({100 * _share(blind):.1f})"

    def lost(model: str, stack: str) -> str:
        rows = cells[model, stack]
        right = [row for row in rows if row.base.correct]
        delta = np.mean([int(r.variant.correct) - int(r.base.correct) for r in rows])
        return f"{100 * delta:+.1f}; {100 * np.mean([not r.variant.correct for r in right]):.1f}"

    base = {model: next(rows for (m, _), rows in cells.items() if m == model) for model in models}
    accuracy = [f"{100 * np.mean([r.base.correct for r in base[m]]):.1f}" for m in models]
    print(f"Baseline accuracy: {', '.join(map(' '.join, zip(models, accuracy, strict=True)))} %\n")
    costs = {
        stack: (_tokens(cells, models, stack), _mean(flops, models, stack)) for stack in stacks
    }
    for title, cell in (("answers changed, %", changed), ("accuracy, points; lost, %", lost)):
        print(f"{title}\n")
        _table(models, stacks, costs, cell)


def _table(
    models: Sequence[str],
    stacks: Iterable[str],
    costs: dict[str, tuple[str, str]],
    cell: Callable[[str, str], str],
) -> None:
    print(f"| method | tokens | FLOPs | {' | '.join(models)} |\n|{'---|' * (3 + len(models))}")
    for stack in stacks:
        print(f"| {stack} | {' | '.join(costs[stack])} | ", end="")
        print(" | ".join(cell(model, stack) for model in models), "|")
    print()


def _share(rows: Sequence[InstanceRow]) -> float:
    return float(np.mean([row.kind != UNCHANGED for row in rows]))


def _difference(ours: Sequence[InstanceRow], blind: Sequence[InstanceRow]) -> tuple[float, float]:
    """95 % interval of how much more of the answers change than under the control."""
    of_control = {row.instance_id: row.kind != UNCHANGED for row in blind}
    found = paired_difference_interval(
        np.array([row.kind != UNCHANGED for row in ours]),
        np.array([of_control[row.instance_id] for row in ours]),
        np.array([row.cluster for row in ours]),
    )
    return found.low, found.high


def _tokens(cells: Cells, models: Sequence[str], stack: str) -> str:
    """Visual tokens over all layers, beside the baseline's."""
    rows = [row for model in models for row in cells[model, stack]]
    left = sum(sum(row.variant.visual_tokens) for row in rows)
    return f"{left / sum(sum(row.base.visual_tokens) for row in rows):.2f}"


def _flops(cells: Iterable[CellResult]) -> dict[tuple[str, str], float]:
    """Counted prefill of each model and stack, summed over its benchmarks."""
    found: dict[tuple[str, str], float] = {}
    for cell in cells:
        told = cell.report.get("prefill", {}).get("linear_flops")
        if cell.condition.role is not Role.FLOOR and isinstance(told, int):
            at = cell.condition.model, cell.condition.stack
            found[at] = found.get(at, 0) + told
    return found


def _mean(flops: dict[tuple[str, str], float], models: Sequence[str], stack: str) -> str:
    ratios = [
        flops[model, stack] / flops[model, "baseline"]
        for model in models
        if (model, stack) in flops
    ]
    return f"{np.mean(ratios):.2f}" if ratios else "–"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
