"""`stabfw rescore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from stabfw.registry import Registry
    from stabfw.report.rescoring import CellChange
    from stabfw.spec import ExperimentSpec

_TEXT = 60


@click.command("rescore", short_help="Read and score stored answers anew, without a model.")
@click.argument("run", metavar="RUN_DIR_OR_SPEC", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec: store=DIR."
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and keep nothing.")
@click.option(
    "--examples",
    "-n",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="Answers shown of each cell that changed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def command(
    run: Path, overrides: tuple[str, ...], dry_run: bool, examples: int, as_json: bool
) -> None:
    """Read and score the answers of a finished run anew.

    For when the rules by which answers are read or a gold label changed. No model is loaded. Old
    scores stay in the store beside the new ones; the run directory and MLflow are brought up to
    date.

    \b
    Examples:
      stabfw rescore runs/demo --dry-run
      stabfw rescore spec.yaml
    """
    from dataclasses import asdict

    from rich.markup import escape

    from stabfw.errors import IncompleteError
    from stabfw.experiment import rescore
    from stabfw.registry import Registry

    from .tables import terminal

    registry = Registry()
    spec = spec_of(run, registry, overrides)
    done = rescore(spec, registry=registry, keep=not dry_run, examples=examples)
    if as_json:
        cells = [asdict(cell) for cell in done.cells]
        click.echo(json.dumps({"name": spec.name, "kept": not dry_run, "cells": cells}, indent=1))
        return
    console = terminal()
    changed = [cell for cell in done.cells if cell.before != cell.after]
    if not changed:
        click.echo("All scores are by the current rules and gold labels; nothing changes.")
    else:
        console.print(_table(changed))
    for cell in changed:
        if cell.examples:
            console.print(_examples(cell))
    versions: dict[str, int] = {}
    for cell in done.cells:
        for version, count in cell.kept.items():
            versions[version] = versions.get(version, 0) + count
    current = {cell.after for cell in done.cells}
    for version, count in versions.items():
        note = " (current)" if version in current else ""
        click.echo(f"scores kept by version {version}: {count:,}{note}")
    if unasked := sum(c.unanswered for c in done.run.results.cells) if done.run else 0:
        console.print(escape(f"{unasked} answers are errors and stay so; `stabfw run` asks again"))
    if done.run is None:
        click.echo("Nothing was kept; give the same command without --dry-run.")
    else:
        click.echo(f"report   {done.run.directory / 'report.html'}")
        if done.run.unjudged:
            raise IncompleteError(f"{done.run.unjudged}; give the same command again later")


def spec_of(run: Path, registry: Registry, overrides: Sequence[str] = ()) -> ExperimentSpec:
    """Read the spec of a run from its directory, or a spec file.

    Raises:
        RunError: It is a directory without a run.
        SpecError: The spec is not valid.
    """
    from stabfw.errors import RunError
    from stabfw.report.layout import SPEC
    from stabfw.spec import load_spec

    if run.is_dir() and not (run / SPEC).is_file():
        raise RunError(
            f"{run}: no run is here; give the directory that `stabfw run` named, such as "
            "runs/demo, or a spec"
        )
    return load_spec(run / SPEC if run.is_dir() else run, registry, overrides)


def _table(cells: list[CellChange]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from stabfw.report.wording import percent

    table = Table(title="Scores before and now", title_justify="left", header_style="bold")
    table.add_column("cell", overflow="fold")
    for name in ("accuracy before", "now", "read differently", "right or wrong now"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        table.add_row(
            escape(cell.label),
            percent(cell.accuracy_before),
            percent(cell.accuracy_after),
            *(map(str, (cell.read, cell.scored)) if cell.before else ("not known",) * 2),
        )
    return table


def _examples(cell: CellChange) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(cell.label), title_justify="left", header_style="bold")
    for name in ("instance", "text", "gold", "read before", "now", "score"):
        table.add_column(name, overflow="fold")
    for item in cell.examples:
        text = item.text if len(item.text) <= _TEXT else item.text[: _TEXT - 1] + "…"
        before, after = (
            "right" if c else "wrong" for c in (item.correct_before, item.correct_after)
        )
        table.add_row(
            item.instance_id[:8],
            escape(repr(text)[1:-1]),
            escape(item.gold),
            escape(item.before),
            escape(item.after),
            after if before == after else f"{before} → {after}",
        )
    return table
