"""What changes when stored answers are read and scored by other rules or gold labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stabfw.components import Answer, AnswerStatus, Prediction, Score
from stabfw.execute.inputs import Inputs
from stabfw.plan import Cell, Plan
from stabfw.report.measure import current_scores
from stabfw.store import Store

_Scores = Mapping[str, tuple[Answer, Score]]


@dataclass(frozen=True)
class Example:
    """One answer that is read or scored differently.

    Attributes:
        instance_id: Identity of the question.
        text: What the model wrote.
        gold: The references now, readable.
        before: What was read, or the status in brackets.
        after: What is read now.
        correct_before: Whether that was right.
        correct_after: Whether it is right now.
    """

    instance_id: str
    text: str
    gold: str
    before: str
    after: str
    correct_before: bool
    correct_after: bool


@dataclass(frozen=True)
class CellChange:
    """The scores of one cell before and after.

    Attributes:
        label: Names of the cell.
        key: Its key in the store.
        before: Version of the scorer that is compared with; empty if there is none.
        after: Version of the current scorer.
        kept: Number of scores in the store by version, the current one included.
        accuracy_before: Share of right answers among those given, None if not known.
        accuracy_after: The same now.
        read: Number of answers that are read differently.
        scored: Number of answers that are right now and were not, or the other way round.
        examples: Some of them, those first whose correctness changed.
    """

    label: str
    key: str
    before: str
    after: str
    kept: Mapping[str, int]
    accuracy_before: float | None
    accuracy_after: float | None
    read: int
    scored: int
    examples: tuple[Example, ...]


def rescored(
    plan: Plan, store: Store, known: Collection[str], *, keep: bool, examples: int
) -> tuple[CellChange, ...]:
    """Read and score the stored answers of finished cells by the current rules.

    Args:
        plan: The cells.
        store: Their outcomes.
        known: Versions of scorers that the last results were made with.
        keep: Whether the store keeps the new scores, beside the old ones.
        examples: How many answers to show of each cell.

    Returns:
        What changed, by cell. Cells that score given answers read none and are left out, and so
        are those whose scores are a judge's.
    """
    inputs = Inputs()
    labels = {key: condition.label for condition, key in reversed(list(plan.named.items()))}
    return tuple(
        _change(store, cell, labels[cell.key], inputs, known, keep, examples)
        for cell in plan.cells
        if not cell.parent and cell.dataset.benchmark.judged is None
    )


def _change(
    store: Store,
    cell: Cell,
    label: str,
    inputs: Inputs,
    known: Collection[str],
    keep: bool,
    examples: int,
) -> CellChange:
    current = cell.dataset.scorer
    kept = store.scorers(cell.key)
    before = _before(kept, known, current)
    predictions = store.predictions(cell.key)
    old = store.scores(cell.key, before) if before else {}
    new = current_scores(store, cell, predictions, inputs, keep=keep)
    differ = [i for i in new if i in old and old[i] != new[i]]
    read = [i for i in differ if old[i][0] != new[i][0]]
    scored = [i for i in differ if old[i][1].correct != new[i][1].correct]
    gold = {row.id: row.gold for row in cell.dataset.rows}
    shown = sorted(differ, key=lambda i: (old[i][1].correct == new[i][1].correct, i))[:examples]
    return CellChange(
        label=label,
        key=cell.key,
        before=before,
        after=current,
        kept={**kept, current: len(new)} if keep else kept,
        accuracy_before=_accuracy(old),
        accuracy_after=_accuracy(new),
        read=len(read),
        scored=len(scored),
        examples=tuple(_example(i, predictions[i], gold[i], old[i], new[i]) for i in shown),
    )


def _before(kept: Mapping[str, int], known: Collection[str], current: str) -> str:
    """The version that the last results were made with, as far as can be told."""
    last = [version for version in kept if version in known]
    others = [version for version in kept if version != current]
    for versions in (last, others, list(kept)):
        if len(versions) == 1:
            return versions[0]
    return ""


def _accuracy(scores: _Scores) -> float | None:
    given = [s.correct for answer, s in scores.values() if answer.status is not AnswerStatus.ERROR]
    return sum(given) / len(given) if given else None


def _example(
    instance_id: str,
    prediction: tuple[str, Prediction],
    gold: str,
    old: tuple[Answer, Score],
    new: tuple[Answer, Score],
) -> Example:
    before, after = (
        answer.value if answer.value is not None else f"({answer.status})"
        for answer, _ in (old, new)
    )
    text = prediction[1].text
    return Example(instance_id, text, gold, before, after, old[1].correct, new[1].correct)
