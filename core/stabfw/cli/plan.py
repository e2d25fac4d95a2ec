"""`stabfw plan`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("plan", short_help="Show what a run would compute.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec.")
@click.option("--explain", is_flag=True, help="Say why cells are not in the store.")
def command(spec: Path, overrides: tuple[str, ...], explain: bool) -> None:
    """Show the cells of SPEC, which of them are in the store, and how many models are loaded.

    Nothing is computed and no model is loaded.

    \b
    Examples:
      stabfw plan spec.yaml
      stabfw plan spec.yaml --explain --set generation.max_new_tokens=32
    """
    from rich.markup import escape
    from rich.table import Table

    from stabfw.plan import explain as differences
    from stabfw.plan import make_plan
    from stabfw.registry import Registry
    from stabfw.spec import load_spec
    from stabfw.store import Store

    from .tables import terminal

    registry = Registry()
    loaded = load_spec(spec, registry, overrides)
    console = terminal()
    with Store(loaded.store) as store:
        plan = make_plan(loaded, registry, store)
        rows = {row.key: row for row in store.cells()}
        table = Table(header_style="bold")
        for name in ("cell", "role", "instances", "in the store"):
            table.add_column(name, justify="right" if name == "instances" else "left")
        cells = {cell.key: cell for cell in plan.cells}
        for condition, key in plan.named.items():
            row = rows.get(key)
            state = row.status if row else "no"
            if row and row.status != "done":
                state = f"{len(store.committed(key))} of {len(cells[key].batches)} batches"
            shown = {"done": "[green]yes[/]", "no": "no"}.get(state, f"[yellow]{state}[/]")
            count = len(cells[key].dataset.rows)
            table.add_row(escape(condition.label), str(condition.role), str(count), shown)
        console.print(table)
        left = [c for c in plan.cells if c.key not in rows or rows[c.key].status != "done"]
        loads = sum(any(cell in left for cell in session.cells) for session in plan.sessions)
        instances = sum(len(cell.dataset.rows) for cell in left)
        console.print(
            f"{len(plan.cells)} cells, {len(plan.cells) - len(left)} in the store; "
            f"to do: {instances} instances with {loads} model loads",
            highlight=False,
        )
        for fit in plan.fits:
            console.print(escape(f"fit first: {fit.label} on {len(fit.instance_ids)} instances"))
        for item in plan.unsupported:
            why = escape(f"{item.condition.label}: {item.reason}")
            console.print(f"[red]unsupported[/] {why}")
        if explain:
            for cell in left:
                reasons = differences(cell, list(rows.values())) or ["nothing like it is stored"]
                console.print(escape(cell.condition.label), style="bold", highlight=False)
                for reason in reasons:
                    console.print(escape(f"  {reason}"), highlight=False, soft_wrap=True)
