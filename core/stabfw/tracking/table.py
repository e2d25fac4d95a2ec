"""The changed answers as a table that MLflow can compare between runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stabfw.report.flips import most_telling
from stabfw.report.results import Change

NAME = "flips.json"
_ROWS = 500


def outcome(change: Change) -> str:
    """Say what happened to one instance in one line that starts with its kind."""
    parts = [
        change.kind.upper().replace("_", " "),
        f"base {change.base_answer or change.base_text!r}",
        f"accel {change.variant_answer or change.variant_text!r}",
    ]
    if change.base_margin is not None and change.variant_margin is not None:
        parts.append(f"margin {change.base_margin:.2f} -> {change.variant_margin:.2f}")
    if change.cause and change.cause != "semantic":
        parts.append(change.cause)
    return " | ".join(parts)


def flips_table(changes: Sequence[Change], path: Path) -> None:
    """Write the changes as a table that MLflow can compare between runs.

    Its viewer joins runs on the first column and compares the second, so these are the instance
    and what happened to it. It reads the file whole, so there are at most 500 rows.

    Args:
        changes: The instances whose answer changed.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    columns = ["instance", "outcome", "kind", "cause", "gold", "baseline", "accelerated"]
    rows = [
        [
            f"{c.instance_id} | {' '.join(c.question.split())} | gold {c.gold}",
            outcome(c),
            c.kind,
            c.cause,
            c.gold,
            c.base_text,
            c.variant_text,
        ]
        for c in sorted(changes, key=most_telling)[:_ROWS]
    ]
    path.write_text(json.dumps({"columns": columns, "data": rows}))
