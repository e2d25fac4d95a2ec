"""What a judge says of free answers, as scores and as numbers of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stabfw.components import Answer, AnswerStatus, Score
from stabfw.execute.inputs import Inputs
from stabfw.judge import Case, Opinion, comparing, opinion, scoring
from stabfw.metrics import MetricValue, proportion_metric
from stabfw.plan import Judge, Plan
from stabfw.store import Store

if TYPE_CHECKING:
    from stabfw.report.measure import CellOutcomes

#: A judged answer counts as correct from this score on.
CORRECT = 0.5

Opinions = Mapping[str, Opinion | None]
#: Of a pair of answers: what the judge said, or whether they are the same without asking it.
Comparisons = Mapping[str, Opinion | bool | None]


def cases_of(plan: Plan, done: Mapping[str, CellOutcomes]) -> Iterator[Case]:
    """Yield all that the judge is asked about: first the scores, then the comparisons.

    Args:
        plan: Says what is compared with what.
        done: Outcomes of finished cells by key, with the scores of their benchmarks.
    """
    inputs = Inputs()
    for outcomes in done.values():
        yield from scoring(outcomes.cell, outcomes.predictions, outcomes.scores, inputs).values()
    for base, variant in plan.compared:
        if base not in done or variant not in done:
            continue
        found = comparing(
            done[variant].cell, done[base].predictions, done[variant].predictions, inputs
        )
        yield from (case for case in found.values() if isinstance(case, Case))


def scored(
    judge: Judge, outcomes: CellOutcomes, store: Store, inputs: Inputs
) -> tuple[dict[str, tuple[Answer, Score]], dict[str, Opinion | None]]:
    """Return the judge's scores in place of the benchmark's, and its opinions, by instance id.

    An answer of which it said nothing readable is `unjudged`.
    """
    cases = scoring(outcomes.cell, outcomes.predictions, outcomes.scores, inputs)
    opinions = {i: opinion(judge, case, store) for i, case in cases.items()}
    scores = dict(outcomes.scores)
    for instance_id, said in opinions.items():
        answer = outcomes.scores[instance_id][0]
        if said is None or said.score is None:
            missing = Answer(None, answer.kind, AnswerStatus.UNJUDGED)
            scores[instance_id] = missing, Score(0.0, False)
        else:
            scores[instance_id] = answer, Score(said.score, said.score >= CORRECT)
    return scores, opinions


def compared(
    judge: Judge, base: CellOutcomes, variant: CellOutcomes, store: Store, inputs: Inputs
) -> dict[str, Opinion | bool | None]:
    """Return of each free answer whether it means the same as the baseline's, by instance id."""
    found = comparing(variant.cell, base.predictions, variant.predictions, inputs)
    return {
        i: opinion(judge, case, store) if isinstance(case, Case) else case
        for i, case in found.items()
    }


def judge_metrics(
    pairs: Sequence[Comparisons],
    clusters: Mapping[str, str],
    scores: Sequence[Opinions] = (),
) -> dict[str, MetricValue]:
    """Measure how often answers mean something else, and how far the judge can be relied on.

    Args:
        pairs: What was said of the pairs, one mapping a comparison; several for a noise floor.
        clusters: Instances with the same value are not independent; by instance id.
        scores: What was said of the answers by themselves, on either side.

    Returns:
        Shares, each with an interval, where there is something to share:

        - `free_divergence`: free answers whose texts differ, without the judge.
        - `judged_divergence`: those that do not mean the same, of all that are decided. Orders
          that contradict each other count as not the same.
        - `judge_order_disagreement`: of the pairs it was shown, those where the orders did.
        - `judge_score_order_disagreement`: of the answers scored in two orders, those whose
          ratings differ between them.
        - `judge_self_disagreement`: of the questions that were asked again, those that got another
          verdict.
        - `judge_unreadable`: of all pairs and answers it was shown, those of which a verdict cannot
          be read. They enter no other share but the one before.
    """
    if not any(pairs) and not any(scores):
        return {}
    told = [(i, said) for part in pairs for i, said in part.items()]
    # What was asked once is counted once, however many answers were the same.
    asked = _distinct((i, said) for i, said in told if isinstance(said, Opinion))
    alone = _distinct((i, said) for part in scores for i, said in part.items() if said)
    rows = {
        "free_divergence": [(i, said is not True) for i, said in told],
        "judged_divergence": [
            (i, not same) for i, said in told if (same := _same(said)) is not None
        ],
        "judge_order_disagreement": _orders(asked),
        "judge_score_order_disagreement": _orders(alone),
        "judge_self_disagreement": [
            (i, other) for i, said in (*asked, *alone) for other in said.repeats
        ],
        "judge_unreadable": [(i, said.score is None) for i, said in (*asked, *alone)],
    }
    return {
        name: _share(name, found, clusters)
        for name, found in rows.items()
        if found or name == "judged_divergence"
    }


def _distinct(said: Iterable[tuple[str, Opinion]]) -> list[tuple[str, Opinion]]:
    return list({(i, one.questions): (i, one) for i, one in said}.values())


def _same(said: Opinion | bool | None) -> bool | None:
    if isinstance(said, Opinion):
        return None if said.score is None else said.score == 1
    return said


def _orders(said: Iterable[tuple[str, Opinion]]) -> list[tuple[str, bool]]:
    return [(i, differ) for i, one in said if (differ := one.orders_differ) is not None]


def _share(name: str, rows: Sequence[tuple[str, bool]], clusters: Mapping[str, str]) -> MetricValue:
    hits = np.array([hit for _, hit in rows], dtype=np.bool_)
    labels = np.array([clusters[i] for i, _ in rows], dtype=object)
    # Several rows of one instance are not several instances.
    return proportion_metric(name, hits, labels, max_n=len({i for i, _ in rows}))
