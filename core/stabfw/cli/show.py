"""`stabfw show`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stabfw.errors import DataError, RunError

if TYPE_CHECKING:
    from rich.console import Console

_KINDS = ("negative", "positive", "wrong_churn", "right_churn")


@click.command("show", short_help="List the answers that changed.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--stack", help="Only this stack.")
@click.option("--perturbation", help="Only this perturbation; `clean` for none.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only changes of this kind.")
@click.option(
    "--limit",
    "-n",
    default=20,
    show_default=True,
    type=click.IntRange(0),
    help="Changes shown of each cell.",
)
@click.option("--metrics", "numbers", is_flag=True, help="Every number instead of the answers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, all of them.")
def command(
    run: Path,
    stack: str | None,
    perturbation: str | None,
    kind: str | None,
    limit: int,
    numbers: bool,
    as_json: bool,
) -> None:
    """List the answers that changed in RUN, a directory that `stabfw run` wrote.

    \b
    Examples:
      stabfw show runs/demo --stack fastv-50 --kind negative
      stabfw show runs/demo --metrics
      stabfw show runs/demo --json > changes.jsonl
    """
    from rich.markup import escape
    from rich.table import Table

    from stabfw.report.layout import CHANGES, RESULTS, cell_directory
    from stabfw.report.serialise import load_results
    from stabfw.report.wording import foresight_rule

    from .tables import metrics_table, terminal

    if not (run / RESULTS).is_file():
        raise RunError(
            f"{run}: no results here; give the directory that `stabfw run` named, such as runs/demo"
        )
    results = load_results(run / RESULTS)
    console = terminal()
    wanted = [
        c
        for c in results.comparisons
        if stack in (None, c.condition.stack) and perturbation in (None, c.condition.perturbation)
    ]
    if not wanted:
        stacks = sorted({c.condition.stack for c in results.comparisons})
        names = sorted({c.condition.perturbation for c in results.comparisons})
        raise RunError(
            f"{run}: no such comparison; stacks: {', '.join(stacks) or 'none'}; "
            f"perturbations: {', '.join(names) or 'none'}"
        )
    if numbers:
        summaries = [
            s
            for s in results.summaries
            if stack in (None, s.condition.stack)
            and perturbation in (None, s.condition.perturbation)
        ]
        # Comparisons with one baseline share its floor.
        floors = {c.base_key: c for c in wanted if c.floor}
        labels = {cell.key: cell.condition.label for cell in reversed(results.cells)}
        for key, c in floors.items():
            title = f"noise floor: {labels[key]}"
            console.print(metrics_table(escape(title), c.floor, c.floor_counts))
        for c in wanted:
            title = c.condition.label
            console.print(metrics_table(escape(title), c.metrics, c.counts))
            if c.self_floor:
                title = f"self floor: {title}"
                console.print(metrics_table(escape(title), c.self_floor, c.self_floor_counts))
        for summary in summaries:
            title = summary.condition.label
            console.print(metrics_table(escape(title), summary.metrics))
            for name, floor in (
                ("noise floor", summary.floor),
                ("self floor", summary.self_floor),
            ):
                if floor:
                    console.print(metrics_table(escape(f"{name}: {title}"), floor))
        if results.foresight is not None:
            console.print(foresight_rule(results.foresight), highlight=False)
        return
    for comparison in wanted:
        found = _changes(cell_directory(run, comparison.condition) / CHANGES)
        changes = [change for change in found if kind in (None, change["kind"])]
        if as_json:
            for change in changes:
                click.echo(json.dumps({"cell": comparison.condition.label, **change}))
            continue
        _print_scores(console, comparison.condition.label, results.aggregates(comparison))
        title = escape(f"{comparison.condition.label}: {len(changes)} changed")
        if len(changes) > limit:
            title += f", {limit} shown"
        table = Table(title=title, title_justify="left", header_style="bold", show_lines=True)
        for name in ("instance", "question", "gold", "baseline", "stack", "change", "margin"):
            table.add_column(name, overflow="fold")
        for change in changes[:limit]:
            lost = change["kind"] == "negative"
            margin = change["base_margin"]
            table.add_row(
                change["instance_id"][:8],
                escape(change["question"]),
                escape(change["gold"]),
                escape(change["base_answer"] or repr(change["base_text"])),
                escape(change["variant_answer"] or repr(change["variant_text"])),
                f"[red]{change['kind']}[/]" if lost else change["kind"],
                "" if margin is None else f"{margin:.2f}",
            )
        console.print(table)


def _print_scores(console: Console, label: str, scores: Mapping[str, tuple[float, float]]) -> None:
    """Print the benchmark's own scores, where it has some."""
    from rich.markup import escape
    from rich.table import Table

    if not scores:
        return
    table = Table(
        title=escape(f"{label}: scores of the benchmark"), title_justify="left", header_style="bold"
    )
    for name in ("score", "baseline", "stack", "change"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for name, (base, variant) in scores.items():
        table.add_row(escape(name), f"{base:.4g}", f"{variant:.4g}", f"{variant - base:+.3g}")
    console.print(table)


def _changes(path: Path) -> list[dict[str, Any]]:
    try:
        # A question may hold other characters that `splitlines` takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot read the changed answers: {error}; run `stabfw run` again, it reuses "
            "the stored answers"
        ) from error
