"""The page of changed answers: every one with its picture, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stabfw.metrics.stability import NEAR_TIE_NATS
from stabfw.report.results import Change, Comparison
from stabfw.report.templates import render
from stabfw.report.wording import ESTIMANDS, KINDS, is_control

MOST_SHOWN = 1000


def flips_page(
    title: str,
    comparison: Comparison,
    changes: Sequence[Change],
    notices: Sequence[str] = (),
    estimand: str = "matched",
) -> str:
    """Make a page that shows each changed answer beside the question and its picture.

    The page holds everything it needs: it opens offline and in a sandboxed frame, can be
    filtered, searched and sorted, and prints what is shown.

    Args:
        title: Heading; empty for the name of the condition.
        comparison: The cell beside its baseline.
        changes: The instances whose answer changed. Beyond `MOST_SHOWN`, lost answers come
            first and the rest is left out; the page says so.
        notices: Sentences to show above everything.
        estimand: What is compared, as in `Results`.

    Returns:
        The page as HTML.

    Raises:
        RunError: If jinja2 is not installed.
    """
    ordered = sorted(changes, key=most_telling)
    shown = ordered[:MOST_SHOWN]
    slices: dict[str, set[str]] = {}
    for change in shown:
        for name, level in change.slices.items():
            slices.setdefault(name, set()).add(level)
    margins = [c.base_margin for c in shown if c.base_margin is not None]
    return render(
        "flips.html.j2",
        script="flips.js",
        title=title or comparison.condition.label,
        comparison=comparison,
        condition=comparison.condition,
        control=is_control(comparison),
        changes=shown,
        total=len(changes),
        split={k: n for k, n in comparison.causes.items() if n},
        kinds={k: v for k, v in KINDS.items() if any(c.kind == k for c in shown)},
        names=KINDS,
        causes=sorted({c.cause for c in shown if c.cause}),
        slices={name: sorted(levels) for name, levels in sorted(slices.items())},
        largest_margin=max(margins, default=None),
        near_tie_nats=NEAR_TIE_NATS,
        tiles=_tiles(comparison),
        bar=_bar(comparison),
        notices=notices,
        estimand=estimand,
        estimand_means=ESTIMANDS.get(estimand, ""),
    )


def most_telling(change: Change) -> tuple[int, float, str]:
    """Sort key: lost answers first, and those that the baseline was surest of."""
    kinds = list(KINDS)
    kind = kinds.index(change.kind) if change.kind in kinds else len(kinds)
    # A change that the baseline was sure of tells more than a near tie.
    return kind, -(change.base_margin or 0.0), change.instance_id


@dataclass(frozen=True)
class _Tile:
    """A number of the header with its interval and, where measured, that of each floor."""

    label: str
    name: str
    hint: str
    signed: bool = False


_TILES = (
    _Tile("Answers changed", "divergence_ratio", "of all instances (divergence ratio)"),
    _Tile("Right answers lost", "correct_loss_rate", "of those the baseline had right"),
    _Tile("Repaired", "positive_flip_rate", "of all instances, wrong before and right now"),
    _Tile("Accuracy change", "accuracy_delta", "in percentage points", signed=True),
)


def _tiles(comparison: Comparison) -> list[_Tile]:
    # Where a perturbation may change the right answer, "right" and "wrong" mean nothing.
    tiles = _TILES if comparison.label_preserved else _TILES[:1]
    return [tile for tile in tiles if tile.name in comparison.metrics]


def _bar(comparison: Comparison) -> list[tuple[str, str, int]]:
    """Return how all instances divide, as (kind, label, number), without empty parts."""
    counts = comparison.counts
    parts = [
        ("kept", "right, unchanged", counts.n_cc_same),
        ("right_churn", "right → other right", counts.n_cc_diff),
        ("negative", "right → wrong", counts.n_ci),
        ("positive", "wrong → right", counts.n_ic),
        ("wrong_churn", "wrong → other wrong", counts.n_ii_diff),
        ("wrong", "wrong, unchanged", counts.n_ii_same),
        ("missing", "not compared", counts.n_missing),
    ]
    return [part for part in parts if part[2]]
