"""Why a cell is not in the store: the fields in which the nearest stored one differs."""

from __future__ import annotations

from collections.abc import Sequence

from stabfw.plan.cells import Cell
from stabfw.store import CellRow, changed_fields


def explain(cell: Cell, stored: Sequence[CellRow]) -> list[str]:
    """Name the key fields in which a cell differs from the nearest finished one.

    Args:
        cell: A cell that has to be computed.
        stored: The cells in the store.

    Returns:
        One line a field: `generation.max_new_tokens: 16, stored 8`; empty if nothing is stored.
    """
    finished = [row for row in stored if row.status == "done" and row.key != cell.key]
    same_name = [row for row in finished if row.label == cell.condition.label]
    candidates = [changed_fields(cell.fields, row.fields) for row in same_name or finished]
    if not candidates:
        return []
    nearest = min(candidates, key=len)
    return [
        f"{name}: {_short(ours)}, stored {_short(theirs)}"
        for name, (ours, theirs) in nearest.items()
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
