"""`stabfw show`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stabfw.errors import RunError

_KINDS = ("negative", "positive", "wrong_churn", "right_churn")


@click.command("show", short_help="List the answers that changed.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--stack", help="Only this stack.")
@click.option("--perturbation", help="Only this perturbation; `clean` for none.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only changes of this kind.")
@click.option("--limit", "-n", default=20, show_default=True, help="Changes shown of each cell.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, all of them.")
def command(
    run: Path,
    stack: str | None,
    perturbation: str | None,
    kind: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the answers that changed in RUN, a directory that `stabfw run` wrote.

    \b
    Examples:
      stabfw show runs/demo --stack fastv-50 --kind negative
      stabfw show runs/demo --json > changes.jsonl
    """
    from rich.table import Table

    from stabfw.report.layout import CHANGES, RESULTS, cell_directory
    from stabfw.report.serialise import load_results

    from .tables import terminal

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
    for comparison in wanted:
        lines = (cell_directory(run, comparison.condition) / CHANGES).read_text().splitlines()
        changes = [c for c in map(json.loads, lines) if kind in (None, c["kind"])]
        if as_json:
            for change in changes:
                click.echo(json.dumps({"cell": comparison.condition.label, **change}))
            continue
        title = f"{comparison.condition.label}: {len(changes)} changed"
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
                change["question"],
                change["gold"],
                change["base_answer"] or repr(change["base_text"]),
                change["variant_answer"] or repr(change["variant_text"]),
                f"[red]{change['kind']}[/]" if lost else change["kind"],
                "" if margin is None else f"{margin:.2f}",
            )
        console.print(table)
