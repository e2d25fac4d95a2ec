"""Stored outcomes to results: join, count, compare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from math import exp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabfw.components import (
    AnswerKind,
    AnswerStatus,
    FinishReason,
    Graded,
    Metric,
    MetricValue,
    Prediction,
    Score,
)
from stabfw.components.data import Answer
from stabfw.errors import StoreError, blaming
from stabfw.execute.inputs import Inputs
from stabfw.execute.session import read_answer
from stabfw.judge import Opinion
from stabfw.metrics import (
    NEED_GOLD,
    Counts,
    Excess,
    ForesightRule,
    Pairs,
    accuracy_did,
    amplification_per_instance,
    by_slice,
    compression_specific_failure_rate,
    confidence_metrics,
    excess_metrics,
    excess_option_drift,
    excess_per_instance,
    first_divergence,
    flip_causes,
    foresee,
    group_floor,
    group_metrics,
    loglik_delta,
    noise_floor,
    option_drift,
    pair,
    perturbation_amplification,
    proportion_interval,
    self_consistency,
    stability_metrics,
    worst_slice,
)
from stabfw.metrics import Outcomes as Table
from stabfw.plan import Cell, Condition, Plan, Recorder, Role, Row
from stabfw.plan.conditions import CLEAN
from stabfw.report.across import THRESHOLDS, corrected, summaries
from stabfw.report.gates import Outcome, judge
from stabfw.report.judged import compared, judge_metrics, scored
from stabfw.report.results import CellResult, Comparison, Failure, Metrics, Results
from stabfw.spec import Gate, Published
from stabfw.store import Outcome as StoredOutcome
from stabfw.store import Store, Strength

_SLICE_METRICS = (
    "accuracy_base",
    "accuracy_delta",
    "divergence_ratio",
    "negative_flip_rate",
    "correct_loss_rate",
)
_UNKNOWN = ("", Prediction(text=""))
_GOLD = "gold"
_COMPARED = (Role.STACK, Role.EQUAL_BUDGET, Role.LOSSLESS)


@dataclass(frozen=True, eq=False)
class CellOutcomes:
    """Everything that a cell answered, by instance id.

    Attributes:
        cell: The cell.
        predictions: What was asked, as a hash, and what was generated.
        scores: What was read, and what that is worth.
        opinions: What a judge said of the answers that it was to score; None where it was not
            asked.
        strengths: How far the instances were perturbed; baselines only know it.
        extras: Gives what was recorded besides, by the key of its recorder.
    """

    cell: Cell
    predictions: Mapping[str, tuple[str, Prediction]]
    scores: Mapping[str, tuple[Answer, Score]]
    opinions: Mapping[str, Opinion | None] = field(default_factory=dict)
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    extras: Callable[[str], Mapping[str, Sequence[float]]] = field(default=lambda _: {})

    @cached_property
    def table(self) -> Table:
        """The outcomes as columns, one row a planned instance."""
        rows = self.cell.dataset.rows
        found = [self._outcome(row) for row in rows]
        slices = {name: [row.slices.get(name) for row in rows] for name in _names(rows)}
        if any(gold := [_gold(row) for row in rows]):
            slices.setdefault(_GOLD, gold)
        return Table.from_columns(
            [row.id for row in rows],
            cluster=[row.cluster for row in rows],
            # What was not asked has no input to be compared.
            input_hash=[prediction[0] or None for prediction, _, _ in found],
            answer=[answer.value for _, answer, _ in found],
            text=[prediction[1].text for prediction, _, _ in found],
            # What a judge has not decided enters no rate.
            status=[
                "missing"
                if row.id not in self.predictions or answer.status is AnswerStatus.UNJUDGED
                else answer.status.value
                for row, (_, answer, _) in zip(rows, found, strict=True)
            ],
            correct=[score.correct for _, _, score in found],
            score=[score.value for _, _, score in found],
            margin=[
                np.nan if prediction[1].margin is None else prediction[1].margin
                for prediction, _, _ in found
            ],
            slices=slices,
        )

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each instance, by instance id."""
        return {row.id: row.group for row in self.cell.dataset.rows}

    @cached_property
    def aggregates(self) -> dict[str, float]:
        """What the benchmark makes of the answers that were given.

        Raises:
            PluginError: If the benchmark fails to, or some number is not finite.
        """
        graded = [
            Graded(
                row.group, row.slices, AnswerKind(row.kind), row.references, *self.scores[row.id]
            )
            for row in self.cell.dataset.rows
            if row.id in self.scores
            and self.scores[row.id][0].status not in (AnswerStatus.ERROR, AnswerStatus.UNJUDGED)
        ]
        if not graded:
            return {}
        dataset = self.cell.dataset
        with blaming(f"benchmark {dataset.type}", "aggregate()"):
            found = {name: float(v) for name, v in dataset.benchmark.aggregate(graded).items()}
            if wrong := [name for name, value in found.items() if not isfinite(value)]:
                raise ValueError(f"{wrong[0]} is {found[wrong[0]]}")
        return found

    @cached_property
    def errors(self) -> dict[str, str]:
        """Why instances could not be asked, by instance id."""
        return {
            instance_id: prediction.error
            for instance_id, (_, prediction) in self.predictions.items()
            if prediction.finish is FinishReason.ERROR
        }

    def recorded(self, recorder: Recorder) -> Mapping[str, Sequence[float]]:
        """What was recorded of each instance, by its id; nothing where it was not asked for.

        Raises:
            StoreError: If it was asked for, but some of it got lost.
        """
        if all(known.key != recorder.key for known in self.cell.recorders):
            return {}
        found = self.extras(recorder.key)
        if lost := self.predictions.keys() - self.errors.keys() - found.keys():
            raise StoreError(
                f"{recorder.type} was recorded with {self.cell.condition.label}, but not of all "
                f"instances: {len(lost)} are missing from the store; put a copy of an intact one "
                "in its place, or use another one (--set store=DIR)"
            )
        return found

    def _outcome(self, row: Row) -> tuple[tuple[str, Prediction], Answer, Score]:
        if row.id not in self.predictions:
            answer = Answer(None, AnswerKind(row.kind), AnswerStatus.ERROR)
            return _UNKNOWN, answer, Score(0.0, False)
        return self.predictions[row.id], *self.scores[row.id]


@dataclass(frozen=True, eq=False)
class Measured:
    """Results together with the outcomes behind them.

    Attributes:
        results: The numbers.
        outcomes: Outcomes of every finished cell, by key.
        pairs: The joined outcomes of each comparison.
    """

    results: Results
    outcomes: Mapping[str, CellOutcomes]
    pairs: Mapping[Condition, Pairs] = field(default_factory=dict)


def measure(
    plan: Plan,
    store: Store,
    *,
    name: str,
    spec_hash: str,
    estimand: str,
    failures: Iterable[Failure] = (),
    metrics: Sequence[tuple[str, Metric[Any]]] = (),
    published: Sequence[Published] = (),
    gates: Sequence[tuple[Gate, tuple[Condition, ...]]] = (),
    foresight: ForesightRule | None = None,
) -> Measured:
    """Compute the results of an experiment from the store alone.

    Answers are read and scored anew where the store has no scores by the current scorer and
    gold labels; no model is loaded for that.

    Args:
        plan: The cells and which baseline belongs to which.
        store: Their outcomes.
        name: Name of the experiment.
        spec_hash: Hash of its spec.
        estimand: `matched` or `deployed`.
        failures: Cells that failed in this run.
        metrics: Metric plugins with their names.
        published: Accuracies that others report of the baselines.
        gates: Limits, each with the cells that it judges.
        foresight: From which margin on answers may be trusted; None for not asking.

    Returns:
        Results and the outcomes behind them. Cells that are not finished are left out.
    """
    done = load_outcomes(plan, store)
    measuring = _Measuring(plan, store, done, metrics, foresight)
    comparisons = [
        comparison
        for condition in plan.named
        if condition.role in _COMPARED and (comparison := measuring.compare(condition))
    ]
    corruptions = {
        condition: " + ".join(kind for kind, _ in done[key].cell.perturbations)
        for condition, key in plan.named.items()
        if key in done
    }
    cells = tuple(
        _cell_result(store, condition, done[key])
        for condition, key in plan.named.items()
        # What scores the answers of a baseline has none of its own.
        if key in done and condition.role is not Role.LIKELIHOOD
    )
    types = {cell.dataset.name: cell.dataset.type for cell in plan.cells}
    results = Results(
        name=name,
        spec_hash=spec_hash,
        estimand=estimand,
        cells=cells,
        comparisons=tuple(corrected(comparisons, measuring.pairs)),
        summaries=summaries(
            comparisons, measuring.pairs, measuring.amplified, corruptions, measuring.clean
        ),
        thresholds=THRESHOLDS,
        failures=(
            *failures,
            *(Failure(item.condition, "unsupported", item.reason) for item in plan.unsupported),
        ),
        notices=(
            *plan.notices,
            *_off_published(cells, types, published),
            *_not_exercised(cells),
            *measuring.notices(),
        ),
        gates=tuple(judge(gate, conditions, measuring.outcome) for gate, conditions in gates),
        foresight=foresight,
    )
    return Measured(results, done, measuring.pairs)


def _off_published(
    cells: Iterable[CellResult], types: Mapping[str, str], published: Sequence[Published]
) -> Iterator[str]:
    """Say which baselines are further from what is reported than tolerance and interval allow."""
    for cell in cells:
        condition = cell.condition
        if condition.role is not Role.BASELINE or condition.perturbation != CLEAN:
            continue
        for item in published:
            if (item.model, item.benchmark) != (condition.model, types[condition.benchmark]):
                continue
            found = cell.accuracy
            if found.value is None or found.low is None or found.high is None:
                continue
            near = (item.accuracy - item.tolerance, item.accuracy + item.tolerance)
            if found.high < near[0] or found.low > near[1]:
                yield (
                    f"{condition.model} on {condition.benchmark}: accuracy {found.value:.1%} "
                    f"[{found.low:.1%}, {found.high:.1%}], but {item.accuracy:.1%} ± "
                    f"{item.tolerance:.1%} is reported ({item.source}); find out why before "
                    "reading how answers change"
                )


def _not_exercised(cells: Iterable[CellResult]) -> Iterator[str]:
    """Name the accelerators that had nothing to do, so that no change says nothing of them."""
    for cell in cells:
        for member, report in cell.report.items():
            if isinstance(why := report.get("engaged"), str):
                yield f"{cell.condition.label}: {member} was not exercised: {why}"


def load_outcomes(plan: Plan, store: Store, *, judged: bool = True) -> dict[str, CellOutcomes]:
    """Return the outcomes of every finished cell of a plan, by key.

    Args:
        plan: The cells.
        store: Their outcomes.
        judged: Whether the scores of the plan's judge take the place of the benchmarks' own.
    """
    inputs = Inputs()
    found = {
        cell.key: _load(store, cell, inputs)
        for cell in plan.cells
        if (row := store.cell(cell.key)) is not None and row.status == "done"
    }
    if plan.judge is None or not judged:
        return found
    for key, outcomes in found.items():
        scores, opinions = scored(plan.judge, outcomes, store, inputs)
        found[key] = replace(outcomes, scores=scores, opinions=opinions)
    return found


class _Measuring:
    def __init__(
        self,
        plan: Plan,
        store: Store,
        done: Mapping[str, CellOutcomes],
        metrics: Sequence[tuple[str, Metric[Any]]],
        foresight: ForesightRule | None,
    ) -> None:
        self.plan = plan
        self.store = store
        self.inputs = Inputs()
        self.done = done
        self.metrics = metrics
        self.foresight = foresight
        self.pairs: dict[Condition, Pairs] = {}
        self.amplified: dict[Condition, Excess] = {}
        self._repeats: dict[str, dict[str, None]] = {}
        for condition, key in plan.named.items():
            if condition.role is Role.FLOOR and key in done:
                self._repeats.setdefault(plan.base_of[key], {})[key] = None
        self._floors: dict[str, tuple[list[Pairs], Metrics]] = {}
        self._parser_first: set[str] = set()
        self._unscored: dict[str, str] = {}

    def compare(self, condition: Condition) -> Comparison | None:
        key = self.plan.named[condition]
        base_key = self.plan.base_of[key]
        if key not in self.done or base_key not in self.done:
            return None
        pairs = self._pair(condition)
        repeats, floor = self._floor(base_key)
        own_repeats, self_floor = self._floor(key)
        values = dict(stability_metrics(pairs))
        values |= group_metrics(pairs, self.done[key].groups)
        if repeats:
            values |= excess_metrics(pairs, repeats)
        values |= self._options(base_key, [key])
        values |= self._excess_options(base_key, key)
        preserved = self.done[key].cell.label_preserved
        if preserved:
            values |= self._confidence(key, base_key)
        values |= self._beside_clean(condition, pairs, repeats)
        values |= self._likelihood(condition)
        values |= self._divergence(key, base_key)
        values |= self._judged(base_key, [key])
        rule = self.foresight
        if rule is not None and (preserved or rule.metric == "divergence_ratio"):
            values |= foresee(pairs, rule)
        for name, metric in self.metrics:
            values |= self._plugged_in(name, metric, condition)
        causes = flip_causes(pairs)
        if causes.fix_the_parser_first:
            self._parser_first.add(condition.label)
        return Comparison(
            key=key,
            base_key=base_key,
            condition=condition,
            metrics=_told(values, preserved),
            floor=_told(floor, preserved),
            counts=Counts.of(pairs),
            floor_counts=sum((Counts.of(repeat) for repeat in repeats), Counts()),
            self_floor=_told(self_floor, preserved),
            self_floor_counts=sum((Counts.of(repeat) for repeat in own_repeats), Counts()),
            slices={
                name: {k: _told(v, preserved) for k, v in _slice(pairs, name).items()}
                for name in pairs.slices
            },
            worst=worst_slice(pairs, "correct_loss_rate" if preserved else "divergence_ratio"),
            causes=asdict(causes),
            label_preserved=preserved,
        )

    def outcome(self, condition: Condition) -> Outcome | str:
        """What a gate judges a cell by, or why it has no outcomes."""
        key = self.plan.named.get(condition)
        if key is None:
            reasons = {u.condition: u.reason for u in self.plan.unsupported}
            return f"unsupported: {reasons[condition]}"
        base_key = self.plan.base_of[key]
        if key not in self.done or base_key not in self.done:
            return "it failed" if key not in self.done else "its baseline failed"
        golds = {row.id: row.references for row in self.done[key].cell.dataset.rows}
        return Outcome(self._pair(condition), self._floor(base_key)[0], golds)

    def notices(self) -> list[str]:
        errors: dict[str, dict[str, str]] = {}
        for outcomes in self.done.values():
            if outcomes.cell.parent:
                continue
            errors.setdefault(outcomes.cell.dataset.name, {}).update(outcomes.errors)
        return [
            *(
                f"{name}: instances that could not be asked and enter no rate: {len(reasons)}; "
                f"the first: {next(iter(reasons.values()))}"
                for name, reasons in errors.items()
                if reasons
            ),
            *(f"{label}: {count}" for label, count in self._unscored.items()),
            *(
                f"{label}: more than 20 % of the changed answers could not be read on one side: "
                "fix the parser first (`stabfw rescore` reads the stored answers anew)"
                for label in sorted(self._parser_first)
            ),
        ]

    def _pair(self, condition: Condition) -> Pairs:
        if condition not in self.pairs:
            key = self.plan.named[condition]
            base = self.done[self.plan.base_of[key]]
            self.pairs[condition] = pair(base.table, self.done[key].table)
        return self.pairs[condition]

    def _floor(self, key: str) -> tuple[list[Pairs], Metrics]:
        """A cell against itself in other batch compositions; nothing where there are none."""
        if key not in self._floors:
            cell, again = self.done[key], list(self._repeats.get(key, ()))
            repeats = [pair(cell.table, self.done[other].table) for other in again]
            floor = dict(noise_floor(repeats)) if repeats else {}
            floor |= self._options(key, again)
            floor |= group_floor(repeats, cell.groups) if repeats else {}
            floor |= self._judged(key, again)
            self._floors[key] = (repeats, floor)
        return self._floors[key]

    def _beside_clean(
        self, condition: Condition, pairs: Pairs, repeats: list[Pairs]
    ) -> dict[str, MetricValue]:
        clean = self.clean(condition)
        if clean is None:
            return {}
        key = self.plan.named[clean]
        base_key = self.plan.base_of[key]
        if key not in self.done or base_key not in self.done:
            return {}
        clean_pairs = self._pair(clean)
        found: dict[str, MetricValue] = {}
        for side, before, after in (
            ("base", base_key, self.plan.base_of[self.plan.named[condition]]),
            ("variant", key, self.plan.named[condition]),
        ):
            name = f"self_consistency_{side}"
            answers = pair(self.done[before].table, self.done[after].table, same_input=False)
            found[name] = replace(self_consistency(answers), name=name)
        if self.done[self.plan.named[condition]].cell.label_preserved:
            for metric in (
                accuracy_did(clean_pairs, pairs),
                compression_specific_failure_rate(clean_pairs, pairs),
            ):
                found[metric.name] = metric
        clean_repeats, _ = self._floor(base_key)
        if repeats and clean_repeats:
            self.amplified[condition] = amplification_per_instance(
                excess_per_instance(clean_pairs, clean_repeats),
                excess_per_instance(pairs, repeats),
            )
            metric = perturbation_amplification(self.amplified[condition])
            found[metric.name] = metric
        return found

    def _likelihood(self, condition: Condition) -> dict[str, MetricValue]:
        """How much more or less likely the stack finds what the baseline answered."""
        key = self.plan.named.get(replace(condition, role=Role.LIKELIHOOD))
        if key is None or key not in self.done:
            return {}
        scored = self.done[key]
        base = self.done[scored.cell.parent]
        rows = [row for row in scored.cell.dataset.rows if row.id not in scored.errors]
        if missing := len(scored.cell.dataset.rows) - len(rows):
            self._unscored[condition.label] = (
                f"answers of the baseline that could not be scored: {missing}; the first: "
                f"{next(iter(scored.errors.values()))}"
            )
        return loglik_delta(
            [base.predictions[row.id][1].logprobs for row in rows],
            [scored.predictions[row.id][1].logprobs for row in rows],
            [row.cluster for row in rows],
        )

    def _judged(self, base_key: str, keys: Sequence[str]) -> dict[str, MetricValue]:
        """What the judge says of cells beside their baseline."""
        if self.plan.judge is None or not keys:
            return {}
        base, variants = self.done[base_key], [self.done[key] for key in keys]
        return judge_metrics(
            [
                compared(self.plan.judge, base, variant, self.store, self.inputs)
                for variant in variants
            ],
            {row.id: row.cluster for row in base.cell.dataset.rows},
            [base.opinions, *(variant.opinions for variant in variants)],
        )

    def _options(self, base_key: str, keys: Sequence[str]) -> dict[str, MetricValue]:
        """How the probabilities of the options moved; nothing where they are not known."""
        before: list[list[float]] = []
        after: list[list[float]] = []
        clusters: list[str] = []
        for key in keys:
            known = self._option_pairs(base_key, key)
            for row in self.done[key].cell.dataset.rows:
                if row.id in known:
                    before.append(known[row.id][0])
                    after.append(known[row.id][1])
                    clusters.append(row.cluster)
        return option_drift(before, after, clusters) if before else {}

    def _excess_options(self, base_key: str, key: str) -> dict[str, MetricValue]:
        """The same beyond the noise floor, of the instances that both know."""
        known = self._option_pairs(base_key, key)
        again = [self._option_pairs(base_key, other) for other in self._repeats.get(base_key, ())]
        rows = [
            row
            for row in self.done[key].cell.dataset.rows
            if row.id in known and any(row.id in repeat for repeat in again)
        ]
        if not rows:
            return {}
        return excess_option_drift(
            [known[row.id][0] for row in rows],
            [known[row.id][1] for row in rows],
            [[repeat[row.id][1] if row.id in repeat else None for row in rows] for repeat in again],
            [row.cluster for row in rows],
        )

    def _option_pairs(self, base_key: str, key: str) -> dict[str, tuple[list[float], list[float]]]:
        """Log-probabilities of the options on both sides, by instance id, where they are known."""
        base, other = self.done[base_key].predictions, self.done[key].predictions
        found = {}
        for instance_id, (_, prediction) in base.items():
            one, two = prediction.options, other.get(instance_id, _UNKNOWN)[1].options
            if one and one.keys() == two.keys():
                found[instance_id] = (list(one.values()), [two[option] for option in one])
        return found

    def _confidence(self, key: str, base_key: str) -> dict[str, MetricValue]:
        """What both sides' confidence in their own answers is worth, where it is known."""
        sides = self.done[base_key], self.done[key]
        known = [
            (row.cluster, *found)
            for row in sides[1].cell.dataset.rows
            if None not in (found := [_confidence(side, row.id) for side in sides])
        ]
        if not known:
            return {}
        clusters, before, after = zip(*known, strict=True)
        (sure, right), (sure_after, right_after) = (zip(*s, strict=True) for s in (before, after))
        return confidence_metrics(sure, sure_after, right, right_after, clusters)

    def _divergence(self, key: str, base_key: str) -> dict[str, MetricValue]:
        """Where free answers part; nothing where there are none, or their tokens are not known."""
        base, variant = self.done[base_key], self.done[key]
        rows = [
            row
            for row in variant.cell.dataset.rows
            if row.kind == AnswerKind.FREE
            and all(i.predictions.get(row.id, _UNKNOWN)[1].token_ids for i in (base, variant))
        ]
        if not rows:
            return {}
        return first_divergence(
            [base.predictions[row.id][1].token_ids for row in rows],
            [variant.predictions[row.id][1].token_ids for row in rows],
            [row.cluster for row in rows],
        )

    def _plugged_in(
        self, name: str, metric: Metric[Any], condition: Condition
    ) -> dict[str, MetricValue]:
        """What a metric plugin makes of a comparison, with what it had recorded."""
        pairs = self._pair(condition)
        if metric.extras():
            key = self.plan.named[condition]
            base, variant = (
                replace(one.table, extras=self._extras(metric, one))
                for one in (self.done[self.plan.base_of[key]], self.done[key])
            )
            pairs = pair(base, variant)
        with blaming(f"metric {name}", "compute()"):
            found = [_finite(value) for value in metric.compute(pairs)]
        return {f"{name}.{item.name}": replace(item, name=f"{name}.{item.name}") for item in found}

    @staticmethod
    def _extras(metric: Metric[Any], outcomes: CellOutcomes) -> dict[str, NDArray[np.float64]]:
        """What a metric had recorded of a cell, as columns."""
        wanted = Recorder(metric.config.type, metric, metric.config.type)
        found = outcomes.recorded(wanted)
        return wanted.columns([found.get(row.id) for row in outcomes.cell.dataset.rows])

    def clean(self, condition: Condition) -> Condition | None:
        """The condition that differs in nothing but the perturbation, unless it is this one."""
        for other in self.plan.named:
            if other.perturbation == CLEAN != condition.perturbation and (
                replace(other, perturbation="", seed=0)
                == replace(condition, perturbation="", seed=0)
            ):
                return other
        return None


def _load(store: Store, cell: Cell, inputs: Inputs) -> CellOutcomes:
    predictions = store.predictions(cell.key)
    scores = current_scores(store, cell, predictions, inputs)
    strengths = store.strengths(cell.key) if cell.perturbations else {}
    extras = partial(store.extras, cell.key)
    return CellOutcomes(cell, predictions, scores, strengths=strengths, extras=extras)


def current_scores(
    store: Store,
    cell: Cell,
    predictions: Mapping[str, tuple[str, Prediction]],
    inputs: Inputs,
    *,
    keep: bool = True,
) -> dict[str, tuple[Answer, Score]]:
    """Return answers and scores by the current scorer, made anew where the store has none.

    Args:
        store: Where scores are looked up.
        cell: The cell.
        predictions: What it predicted, by instance id.
        inputs: Where instances come from.
        keep: Whether new scores are put into the store.
    """
    scores = store.scores(cell.key, cell.dataset.scorer)
    missing = [i for i in predictions if i not in scores]
    if missing:
        made = [_score(cell, inputs, i, *predictions[i]) for i in missing]
        if keep:
            store.put_scores(cell.key, cell.dataset.scorer, made)
        scores |= {outcome.instance_id: (outcome.answer, outcome.score) for outcome in made}
    return scores


def _score(
    cell: Cell, inputs: Inputs, instance_id: str, input_hash: str, prediction: Prediction
) -> StoredOutcome:
    instance = inputs.perturbed(cell, instance_id)
    answer, score = read_answer(cell.dataset.benchmark, instance, prediction)
    return StoredOutcome(instance_id, input_hash, prediction, answer, score)


def _cell_result(store: Store, condition: Condition, outcomes: CellOutcomes) -> CellResult:
    table = outcomes.table
    row = store.cell(outcomes.cell.key)
    assert row is not None
    correct = table.correct[table.usable]
    interval = proportion_interval(correct, table.cluster[table.usable])
    predictions = [prediction for _, prediction in outcomes.predictions.values()]
    answered = [p for p in predictions if p.finish is not FinishReason.ERROR]
    prefill = [p.prefill_ms for p in answered if p.prefill_ms is not None]
    decode = [p.decode_ms for p in answered]
    visual = [np.mean(p.visual_tokens) for p in predictions if p.visual_tokens]
    n = len(correct)
    preserved = outcomes.cell.label_preserved
    return CellResult(
        key=outcomes.cell.key,
        condition=condition,
        accuracy=MetricValue(
            "accuracy",
            float(np.mean(correct)) if n else None,
            interval.low,
            interval.high,
            n,
            interval.method,
        )
        if preserved
        else MetricValue("accuracy", None, None, None, n, "gold answers may not hold"),
        unanswered=len(outcomes.errors),
        aggregates=outcomes.aggregates if preserved else {},
        report=row.report,
        facts={
            "instances": len(table),
            "prefill_ms_median": float(np.median(prefill)) if prefill else None,
            "decode_ms_median": float(np.median(decode)) if decode else None,
            "visual_tokens_per_layer": float(np.mean(visual)) if visual else None,
            **_strength(outcomes.strengths.values()),
            "seconds": row.seconds,
            **row.provenance,
        },
    )


def _confidence(outcomes: CellOutcomes, instance_id: str) -> tuple[float, bool] | None:
    """The probability of the answer given, among the options, and whether it is right."""
    if instance_id not in outcomes.predictions:
        return None
    answer, score = outcomes.scores[instance_id]
    options = outcomes.predictions[instance_id][1].options
    if answer.value is None or answer.value not in options:
        return None
    return exp(options[answer.value]), score.correct


def _gold(row: Row) -> str | None:
    """The right answer, where it is one of a few: a class whose losses are told apart."""
    closed = row.kind in (AnswerKind.YES_NO, AnswerKind.CHOICE)
    return row.references[0] if closed and len(row.references) == 1 else None


def _strength(strengths: Collection[Strength]) -> dict[str, float]:
    """How far instances were perturbed on average: pictures, text, or both."""
    edits = [strength.edits for strength in strengths]
    means: dict[str, Sequence[float]] = {
        "perturbation_psnr_db": [s.psnr for s in strengths if s.psnr is not None],
        "perturbation_ssim": [s.ssim for s in strengths if s.ssim is not None],
        "perturbation_edits": edits if any(edits) else [],
    }
    return {name: float(np.mean(values)) for name, values in means.items() if values}


def _slice(pairs: Pairs, name: str) -> dict[str, Metrics]:
    return {
        level: {metric: values[metric] for metric in _SLICE_METRICS}
        for level, values in by_slice(pairs, name, min_n=1, resamples=0).items()
    }


def _told(metrics: Metrics, preserved: bool) -> dict[str, MetricValue]:
    """What may be told of metrics: only what needs no gold answers, unless these hold."""
    return {n: value for n, value in metrics.items() if preserved or n not in NEED_GOLD}


def _finite(found: object) -> MetricValue:
    """A plugin's value without what JSON cannot hold."""
    if not isinstance(found, MetricValue):
        raise TypeError(f"it gave {found!r}, not a MetricValue")
    value, low, high = (
        number if number is not None and isfinite(number) else None
        for number in (found.value, found.low, found.high)
    )
    return replace(found, value=value, low=low, high=high)


def _names(rows: Sequence[Row]) -> list[str]:
    return sorted({name for row in rows for name in row.slices})
