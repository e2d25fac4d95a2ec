"""Which cells a gate judges, what it refuses, and how likely it passes, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from stabfw.components import AnswerKind, AnswerStatus
from stabfw.errors import SpecError
from stabfw.metrics import effective_size, largest_passing, power, sample_size
from stabfw.metrics.gates import MIN_CLUSTERS
from stabfw.plan.cells import Cell, Plan
from stabfw.plan.conditions import Condition, Role
from stabfw.plan.datasets import Dataset, Row
from stabfw.spec import ExperimentSpec, Gate
from stabfw.store import Store

#: Taken where nothing is known of a baseline; plans say so.
ASSUMED_ACCURACY = 0.7
#: True rates for which power is told, as parts of the limit.
PARTS = (0.0, 0.1, 0.25, 0.5, 0.75)
#: The powers for which numbers of questions are told.
POWERS = (0.8, 0.9)
_REPLICATE = " (calibration seed "
_ANY_ANSWER = ("divergence_ratio", "excess_divergence")
_OF_RIGHT = ("correct_loss_rate", "excess_correct_loss")


def gated(spec: ExperimentSpec, plan: Plan) -> tuple[tuple[Gate, tuple[Condition, ...]], ...]:
    """Return each gate with the cells that it judges, those that cannot run included."""
    scopes = spec.scopes()
    stacks = [c for c in plan.named if c.role is Role.STACK]
    stacks += [u.condition for u in plan.unsupported if u.condition.role is Role.STACK]

    def within(gate: Gate, condition: Condition) -> bool:
        # What is fitted to another choice of the data is the same stack.
        names = {
            "model": condition.model,
            "stack": condition.stack.partition(_REPLICATE)[0],
            "benchmark": condition.benchmark,
            "perturbation": condition.perturbation,
        }
        return all(
            wanted is None or not scopes[field][name].isdisjoint(wanted)
            for field, name in names.items()
            for wanted in [getattr(gate.where, field)]
        )

    return tuple((gate, tuple(c for c in stacks if within(gate, c))) for gate in spec.gates)


def refuse_gates(spec: ExperimentSpec, plan: Plan) -> None:
    """Refuse gates that judge nothing, judge what they must not, or could never pass.

    Raises:
        SpecError: It says which gate, why, and what to do.
    """
    cells = {cell.key: cell for cell in plan.cells}
    for index, (gate, conditions) in enumerate(gated(spec, plan)):
        if not conditions:
            raise SpecError(
                f"gates[{index}]: no cell is in its `where`: no benchmark, perturbation, model and "
                "stack of this spec meet there; widen it"
            )
        told = set()
        for condition in conditions:
            if (key := plan.named.get(condition)) is None:
                continue
            problem = _unlabelled(gate, cells[key])
            if not problem and (dataset := cells[key].dataset).name not in told:
                told.add(dataset.name)
                problem = _unfit(gate, dataset) or _hopeless(gate, dataset)
            if problem:
                raise SpecError(
                    f"gates[{index}]: {gate.metric} on {condition.benchmark}: {problem}"
                )


@dataclass(frozen=True)
class Forecast:
    """What is known of a gate on one benchmark before it is run, in its weakest cell.

    Attributes:
        gate: Number of the gate in the spec.
        benchmark: Name of the benchmark.
        cells: How many cells it judges there.
        weakest: The one with the fewest independent questions at risk.
        questions: Number of questions.
        images: Number of independent pictures or patients among them; None if not known.
        accuracy: Share of right baseline answers; 1 where the metric does not depend on it.
        valid: Share of questions that could be answered; 1 where the baseline was not run.
        source: Where the accuracy is from: `store`, `published` or `assumed`; empty for none.
        at_risk: Number of answers that could be lost.
        effective: How many independent ones these are worth.
        most: The largest number of losses with which the gate passes; None if it cannot pass.
        power: How likely it passes, by true rate.
        needed: Questions needed for each of `POWERS`, by true rate; None if no number will do.
    """

    gate: int
    benchmark: str
    cells: int
    weakest: Condition
    questions: int
    images: int | None
    accuracy: float
    valid: float
    source: str
    at_risk: int
    effective: float
    most: int | None
    power: Mapping[float, float]
    needed: Mapping[float, tuple[int | None, ...]]

    @property
    def design_effect(self) -> float:
        """How many clustered questions are worth one independent one."""
        return self.at_risk / self.effective if self.effective else float("inf")

    @property
    def too_few(self) -> bool:
        """Whether there are so few pictures that the verdict must stay open."""
        known = self.questions if self.images is None else self.images
        return known < MIN_CLUSTERS


def forecasts(spec: ExperimentSpec, plan: Plan, store: Store) -> Iterator[Forecast]:
    """Tell the power of each gate on each benchmark.

    Independent losses are assumed within what the design effect of the clusters allows, and for
    differences that nothing is repaired and the noise floor is zero.
    """
    cells = {cell.key: cell for cell in plan.cells}
    baselines: dict[str, _Baseline | None] = {}
    for index, (gate, conditions) in enumerate(gated(spec, plan)):
        found: dict[str, list[_Sample]] = {}
        for condition in conditions:
            if (key := plan.named.get(condition)) is None:
                continue
            base = plan.base_of[key]
            if base not in baselines:
                baselines[base] = _baseline(cells[base], store)
            sample = _sample(spec, gate, condition, cells[key], baselines[base])
            found.setdefault(condition.benchmark, []).append(sample)
        for benchmark, samples in found.items():
            yield _forecast(index, gate, benchmark, samples)


@dataclass(frozen=True)
class _Baseline:
    right: frozenset[str]
    answered: frozenset[str]


@dataclass(frozen=True)
class _Sample:
    condition: Condition
    questions: int
    images: int | None
    accuracy: float
    valid: float
    source: str
    at_risk: int
    effective: float


def _baseline(cell: Cell, store: Store) -> _Baseline | None:
    row = store.cell(cell.key)
    if row is None or row.status != "done":
        return None
    scores = store.scores(cell.key, cell.dataset.scorer)
    if not scores:
        return None
    return _Baseline(
        frozenset(name for name, (_, score) in scores.items() if score.correct),
        frozenset(
            n for n, (answer, _) in scores.items() if answer.status is not AnswerStatus.ERROR
        ),
    )


def _sample(
    spec: ExperimentSpec, gate: Gate, condition: Condition, cell: Cell, baseline: _Baseline | None
) -> _Sample:
    dataset = cell.dataset
    rows = _asked(gate, dataset)
    total = len(rows) or dataset.size
    confidence = 2 * gate.confidence - 1
    if baseline is None or not rows:
        accuracy, source = _accuracy(spec, gate, condition, dataset)
        effective = _effective(rows, confidence) if rows else float(total)
        images = len({row.cluster for row in rows}) if rows else None
        at_risk = round(total * accuracy)
        effective *= accuracy
        return _Sample(condition, total, images, accuracy, 1.0, source, at_risk, effective)
    answered = [row for row in rows if row.id in baseline.answered]
    risk = answered
    if gate.metric in _OF_RIGHT:
        risk = [row for row in answered if row.id in baseline.right]
    return _Sample(
        condition=condition,
        questions=total,
        images=len({row.cluster for row in risk}),
        accuracy=len(risk) / max(len(answered), 1),
        valid=len(answered) / total,
        source="store",
        at_risk=len(risk),
        effective=_effective(risk, confidence),
    )


def _forecast(index: int, gate: Gate, benchmark: str, samples: Sequence[_Sample]) -> Forecast:
    weakest = min(samples, key=lambda sample: sample.effective)
    limit, confidence = abs(gate.limit), gate.confidence
    rates = [part * limit for part in PARTS]
    # Of all questions, so many are worth one independent answer at risk.
    share = weakest.effective / weakest.questions

    def questions(rate: float, wanted: float) -> int | None:
        independent = sample_size(rate, limit, confidence, wanted)
        return ceil(independent / share) if independent is not None and share else None

    return Forecast(
        gate=index,
        benchmark=benchmark,
        cells=len(samples),
        weakest=weakest.condition,
        questions=weakest.questions,
        images=weakest.images,
        accuracy=weakest.accuracy,
        valid=weakest.valid,
        source=weakest.source,
        at_risk=weakest.at_risk,
        effective=weakest.effective,
        most=largest_passing(weakest.effective, limit, confidence),
        power={rate: power(weakest.effective, rate, limit, confidence) for rate in rates},
        needed={rate: tuple(questions(rate, wanted) for wanted in POWERS) for rate in rates},
    )


def _accuracy(
    spec: ExperimentSpec, gate: Gate, condition: Condition, dataset: Dataset
) -> tuple[float, str]:
    if gate.metric not in _OF_RIGHT:
        return 1.0, ""
    for item in spec.published:
        if (item.model, item.benchmark) == (condition.model, dataset.type):
            return item.accuracy, "published"
    return ASSUMED_ACCURACY, "assumed"


def _asked(gate: Gate, dataset: Dataset) -> list[Row]:
    gold = gate.where.gold
    return [row for row in dataset.rows if gold is None or gold in row.references]


def _effective(rows: Sequence[Row], confidence: float) -> float:
    if not rows:
        return 0.0
    clusters = np.array([row.cluster for row in rows], dtype=object)
    return effective_size(np.zeros(len(rows), dtype=np.bool_), clusters, confidence)


def _unlabelled(gate: Gate, cell: Cell) -> str:
    if gate.metric in _ANY_ANSWER or cell.label_preserved:
        return ""
    return (
        f"the perturbation '{cell.condition.perturbation}' may change the right answer, so that no "
        "right answer can be said to be lost; leave it out with `where: {perturbation: …}`, or "
        "limit divergence_ratio"
    )


def _unfit(gate: Gate, dataset: Dataset) -> str:
    """Why a benchmark must not be gated on, or nothing."""
    if not dataset.benchmark.representative:
        return (
            "its questions were chosen by how they were answered, so no rate over them estimates "
            "anything; leave it out with `where: {benchmark: …}`"
        )
    rows = _asked(gate, dataset)
    if not dataset.rows:
        return ""
    if not rows:
        golds = sorted({reference for row in dataset.rows for reference in row.references})
        known = ", ".join(golds[:8]) + (", …" if len(golds) > 8 else "")
        return f"no question has the right answer '{gate.where.gold}' ({known})"
    free = sum(row.kind == AnswerKind.FREE for row in rows)
    if free:
        return (
            f"{free} of {len(rows)} questions are answered freely, where another wording is "
            "another answer; gate on questions with short answers or options (`where: {benchmark: "
            "…}`), and of free answers read first_divergence_token and what a `judge:` says"
        )
    return ""


def _hopeless(gate: Gate, dataset: Dataset) -> str:
    """Why a gate cannot pass whatever is answered, or nothing."""
    rows = _asked(gate, dataset)
    limit, confidence = abs(gate.limit), gate.confidence
    if rows:
        if len({row.cluster for row in rows}) < MIN_CLUSTERS:
            # That it must stay open is said by the plan and the verdict.
            return ""
        size, total = _effective(rows, 2 * confidence - 1), len(rows)
    else:
        size, total = float(dataset.size), dataset.size
        if total < MIN_CLUSTERS:
            return ""
    if largest_passing(size, limit, confidence) is not None:
        return ""
    least = sample_size(0.0, limit, confidence)
    assert least is not None
    worth = "" if round(size) == total else f", worth {size:,.0f} independent ones,"
    asked = ceil(least * total / size)
    return (
        f"its {total:,} questions{worth} are too few for a limit of {limit:.3g} at "
        f"{confidence:.3g}: it could not pass even if nothing was lost. It takes {asked:,} such "
        "questions at the least, all answered right; ask more, or set a higher limit or a lower "
        "confidence"
    )
