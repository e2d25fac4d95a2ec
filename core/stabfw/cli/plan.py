"""`stabfw plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from stabfw.plan import Cell, Forecast, Plan
    from stabfw.spec import Gate
    from stabfw.store import CellRow, Store

#: With more cells than this, they are shown by model and stack.
_MANY = 60


@click.command("plan", short_help="Show what a run would compute.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec.")
@click.option("--explain", is_flag=True, help="Say why cells are not in the store.")
@click.option("--cells", "each", is_flag=True, help="List every cell, however many there are.")
@click.option(
    "--gpu",
    type=click.Choice(["a100", "h100"]),
    default="a100",
    show_default=True,
    help="GPU whose hours are estimated.",
)
def command(spec: Path, overrides: tuple[str, ...], explain: bool, each: bool, gpu: str) -> None:
    """Show the cells of SPEC, which of them are in the store, and how many models are loaded.

    Nothing is computed, no model is loaded, nothing is downloaded. Data sets and checkpoints that
    are not on this machine are planned by their published sizes, where these are known. Of each
    gate it is told how likely it passes, and how many questions that would take.

    \b
    Examples:
      stabfw plan spec.yaml
      stabfw plan spec.yaml --explain --set generation.max_new_tokens=32
      stabfw plan examples/study/grid.yaml --gpu h100
    """
    from rich.markup import escape

    from stabfw.plan import explain as differences
    from stabfw.plan import forecasts, make_plan, refuse_gates
    from stabfw.registry import Registry
    from stabfw.spec import load_spec
    from stabfw.store import Store

    from .tables import terminal

    registry = Registry()
    loaded = load_spec(spec, registry, overrides)
    console = terminal()
    with Store(loaded.store) as store:
        plan = make_plan(loaded, registry, store, outline=True)
        refuse_gates(loaded, plan)
        rows = {row.key: row for row in store.cells()}
        if each or explain or len(plan.named) <= _MANY:
            _print_cells(console, plan, store, rows)
        else:
            _print_stacks(console, plan, rows)
        _print_datasets(console, plan)
        left = [c for c in plan.cells if not _done(rows, c.key)]
        loads = sum(any(cell in left for cell in session.cells) for session in plan.sessions)
        instances = sum(cell.dataset.size for cell in left)
        console.print(
            f"{len(plan.cells)} cells, {len(plan.cells) - len(left)} in the store; "
            f"to do: {instances:,} instances with {loads} model loads",
            highlight=False,
        )
        _print_hours(console, plan, left, gpu, loaded.batch_size)
        _print_judge(console, plan)
        for fit in plan.fits:
            chosen = f" on {len(fit.instance_ids)} instances" if fit.instance_ids else ""
            console.print(escape(f"fit first: {fit.label}{chosen}"))
        _print_unsupported(console, plan, each)
        for forecast in forecasts(loaded, plan, store):
            _print_forecast(console, loaded.gates[forecast.gate], forecast)
        for notice in plan.notices:
            console.print(f"[yellow]note[/] {escape(notice)}", highlight=False, soft_wrap=True)
        for what in plan.missing:
            console.print(f"[yellow]not here[/] {escape(what)}", highlight=False)
        if explain:
            for cell in left:
                reasons = differences(cell, list(rows.values())) or ["nothing like it is stored"]
                console.print(escape(cell.condition.label), style="bold", highlight=False)
                for reason in reasons:
                    console.print(escape(f"  {reason}"), highlight=False, soft_wrap=True)


def _done(rows: dict[str, CellRow], key: str) -> bool:
    return key in rows and rows[key].status == "done"


def _print_cells(console: Console, plan: Plan, store: Store, rows: dict[str, CellRow]) -> None:
    from rich.markup import escape

    cells = {cell.key: cell for cell in plan.cells}
    table = _table("cell", "role", "instances", "in the store")
    for condition, key in plan.named.items():
        row = rows.get(key)
        state = row.status if row else "no"
        if row and row.status != "done":
            state = f"{len(store.committed(key))} of {len(cells[key].batches)} batches"
        shown = {"done": "[green]yes[/]", "no": "no"}.get(state, f"[yellow]{state}[/]")
        count = f"{cells[key].dataset.size:,}"
        table.add_row(escape(condition.label), str(condition.role), count, shown)
    console.print(table)


def _print_stacks(console: Console, plan: Plan, rows: dict[str, CellRow]) -> None:
    """Cells by model and stack: a grid of hundreds is not read line by line."""
    from rich.markup import escape

    models = list(dict.fromkeys(condition.model for condition in plan.named))
    groups: dict[tuple[str, str, str], list[str]] = {}
    for condition in sorted(plan.named, key=lambda c: models.index(c.model)):
        group = condition.model, condition.stack, str(condition.role)
        groups.setdefault(group, []).append(plan.named[condition])
    sizes = {cell.key: cell.dataset.size for cell in plan.cells}
    table = _table("model", "stack", "role", "cells", "instances", "in the store")
    previous = ""
    for (model, stack, role), keys in groups.items():
        done = sum(_done(rows, key) for key in keys)
        if previous not in ("", model):
            table.add_section()
        previous = model
        table.add_row(
            escape(model),
            escape(stack),
            role,
            f"{len(keys):,}",
            f"{sum(map(sizes.__getitem__, keys)):,}",
            f"{done:,}",
        )
    console.print(table)


def _print_datasets(console: Console, plan: Plan) -> None:
    """What each benchmark holds by kind of question, where its data is here."""
    from collections import Counter

    from rich.markup import escape

    for dataset in {cell.dataset.name: cell.dataset for cell in plan.cells}.values():
        if not dataset.rows:
            continue
        kinds = Counter(row.kind for row in dataset.rows)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        line = f"{dataset.name}: {told}"
        if dataset.unreadable:
            line += f"; the pictures of {dataset.unreadable:,} cannot be read"
        console.print(escape(line), highlight=False)


def _print_hours(
    console: Console, plan: Plan, left: Sequence[Cell], gpu: str, batch_size: int
) -> None:
    from stabfw.plan import EFFICIENCY, GPUS, Estimator

    models = {cell.key: session.model for session in plan.sessions for cell in session.cells}
    estimator = Estimator(GPUS[gpu], batch_size)
    known = [estimator.hours(cell, models[cell.key]) for cell in left]
    hours = [value for value in known if value is not None]
    if not hours:
        return
    rest = f"; {len(known) - len(hours)} cells are of unknown size" if None in known else ""
    console.print(
        f"roughly {sum(hours):,.0f} GPU hours on one {GPUS[gpu].name}{rest}. Not measured: typical "
        f"questions at {EFFICIENCY:.0%} of its peak, accelerated models taken for no faster, "
        "loading and calibration left out",
        highlight=False,
    )


def _print_judge(console: Console, plan: Plan) -> None:
    from rich.markup import escape

    if plan.judge is None:
        return
    cells = {cell.key: cell for cell in plan.cells}
    most = plan.judge.most_replies(plan.cells, [cells[key] for _, key in plan.compared])
    console.print(
        escape(
            f"judge {plan.judge.name}: at most {most:,} replies, fewer where answers are equal; "
            "those in the store are not asked for again"
        ),
        highlight=False,
    )


def _print_unsupported(console: Console, plan: Plan, each: bool) -> None:
    from rich.markup import escape

    told: dict[str, int] = {}
    for item in plan.unsupported:
        condition = item.condition
        where = condition.label if each else f"{condition.stack} · {condition.model}"
        told[f"{where}: {item.reason}"] = told.get(f"{where}: {item.reason}", 0) + 1
    for why, count in told.items():
        cells = f" ({count} cells)" if count > 1 else ""
        console.print(f"[red]unsupported[/] {escape(why)}{cells}")


_SOURCES = {
    "store": "by the stored baseline",
    "published": "as published",
    "assumed": "assumed, as the baseline was not run yet",
}


def _print_forecast(console: Console, gate: Gate, told: Forecast) -> None:
    """What a gate can tell on one benchmark: its power and sample size."""
    from rich.markup import escape

    sign = "≤" if gate.at_least is None else "≥"
    cells = "1 cell" if told.cells == 1 else f"the weakest of {told.cells} cells"
    console.print(
        escape(f"gate {gate.metric} {sign} {gate.limit:.3g} at {gate.confidence:.4g}, {cells}: ")
        + escape(told.weakest.label),
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    pictures = "not known" if told.images is None else f"{told.images:,}"
    effect = f"design effect {told.design_effect:.2f}"
    if told.images is None:
        effect = "without the data all are taken for independent, which is too hopeful"
    accuracy = f"; {told.accuracy:.1%} right, {_SOURCES[told.source]}" if told.source else ""
    valid = f"; {told.valid:.1%} answered" if told.valid < 1 else ""
    lines = [
        f"{told.questions:,} questions, independent pictures: {pictures}{accuracy}{valid}",
        f"{told.at_risk:,} answers can be lost, worth {told.effective:,.0f} independent ones "
        f"({effect})",
    ]
    if told.too_few:
        lines.append("[yellow]too few pictures: it must stay inconclusive[/]")
    elif told.most is None:
        lines.append("[yellow]it cannot pass, even if nothing is lost[/]")
    else:
        lines.append(f"passes if at most {told.most:,} of the independent ones are lost")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    table = _table("true loss", "power", "questions for power 0.8", "for power 0.9")
    for rate, needed in told.needed.items():
        power = 0.0 if told.too_few else told.power[rate]
        counts = (f"{count:,}" if count is not None else "out of reach" for count in needed)
        table.add_row(f"{rate:.3%}", f"{power:.0%}", *counts)
    console.print(table)


def _table(*names: str) -> Any:
    from rich.table import Table

    table = Table(header_style="bold")
    for name in names:
        numeric = (
            name in ("instances", "cells", "power")
            or name.endswith(("0.8", "0.9"))
            or (name == "in the store" and len(names) > 4)
        )
        table.add_column(name, justify="right" if numeric else "left")
    return table
