"""Which answers come before the judge, and what it said of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    FinishReason,
    Prediction,
    Rubric,
    Score,
    Verdict,
    normalised,
)
from stabfw.execute.inputs import Inputs
from stabfw.judge.equivalence import SameAnswer
from stabfw.plan import Cell, Judge
from stabfw.store import Store

_Predictions = Mapping[str, tuple[str, Prediction]]


@dataclass(frozen=True)
class Case:
    """One answer, or two that are compared: what is asked of it, and how replies are read."""

    rubric: Rubric
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Opinion:
    """What the judge said of a case.

    Attributes:
        questions: What was asked.
        verdicts: For each order, what it said at first; None where that cannot be read.
        score: What they are worth together; None where one cannot be read.
        repeats: For each question that was asked again, whether it got another verdict.
    """

    questions: tuple[str, ...]
    verdicts: tuple[Verdict | None, ...]
    score: float | None
    repeats: tuple[bool, ...] = ()

    @property
    def orders_differ(self) -> bool | None:
        """Whether the verdict depends on the order; None where there is one only, or none read."""
        if len(self.verdicts) < 2 or self.score is None:
            return None
        return len({*self.verdicts}) > 1


def scoring(
    cell: Cell,
    predictions: _Predictions,
    scores: Mapping[str, tuple[Answer, Score]],
    inputs: Inputs,
) -> dict[str, Case]:
    """Return what is asked to score the answers of a cell, by instance id.

    The judge is shown the question without perturbation, to which the gold answers belong.
    Answers that are empty or errors are not shown to it.
    """
    rubric = cell.dataset.benchmark.judged
    if rubric is None or cell.parent:
        return {}
    cases = {}
    for instance_id, (_, prediction) in predictions.items():
        if scores[instance_id][0].status is AnswerStatus.OK:
            instance = inputs.clean(cell.dataset, instance_id)
            cases[instance_id] = Case(rubric, rubric.questions(instance, prediction.text))
    return cases


def comparing(
    cell: Cell, base: _Predictions, variant: _Predictions, inputs: Inputs
) -> dict[str, Case | bool]:
    """Return what is asked to compare free answers that both sides gave, by instance id.

    True where the texts are equal but for case, white space and a final full stop, False where one
    of them is empty: nobody need be asked.
    """
    found: dict[str, Case | bool] = {}
    for row in cell.dataset.rows:
        if row.kind != AnswerKind.FREE or row.id not in base or row.id not in variant:
            continue
        ours, theirs = base[row.id][1], variant[row.id][1]
        if FinishReason.ERROR in (ours.finish, theirs.finish):
            continue
        texts = normalised(ours.text), normalised(theirs.text)
        if texts[0] == texts[1] or not all(texts):
            found[row.id] = texts[0] == texts[1]
        else:
            rubric = SameAnswer(ours.text)
            instance = inputs.clean(cell.dataset, row.id)
            found[row.id] = Case(rubric, rubric.questions(instance, theirs.text))
    return found


def opinion(judge: Judge, case: Case, store: Store) -> Opinion | None:
    """Return what the judge said of a case, None while some question was not asked."""
    rubric, questions = case.rubric, case.questions

    def replies(attempt: int) -> list[str | None]:
        return [store.verdict(judge.key(question, attempt)) for question in questions]

    def read(reply: str, order: int) -> Verdict | None:
        return rubric.read(reply, order)

    first = replies(0)
    said = [read(reply, order) for order, reply in enumerate(first) if reply is not None]
    if len(said) < len(questions):
        return None
    known = [verdict for verdict in said if verdict is not None]
    again = tuple(
        read(reply, order) != said[order]
        for attempt in range(1, judge.repeats + 1)
        for order, reply in enumerate(replies(attempt))
        if reply is not None
    )
    score = rubric.score(known) if len(known) == len(said) else None
    return Opinion(questions, tuple(said), score, again)
