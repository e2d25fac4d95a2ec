"""The results of an experiment: what was compared, the numbers, and where the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stabfw.metrics.counts import Counts
from stabfw.metrics.foresight import ForesightRule
from stabfw.metrics.gates import Estimate, Verdict, combined
from stabfw.metrics.several import WorstSlice
from stabfw.metrics.stability import MetricValue
from stabfw.plan.conditions import Condition, Role

__all__ = [
    "CellResult",
    "Change",
    "Comparison",
    "Condition",
    "Failure",
    "ForesightRule",
    "GateResult",
    "Judged",
    "Metrics",
    "Results",
    "Role",
    "Summary",
]

Metrics = Mapping[str, MetricValue]


@dataclass(frozen=True)
class CellResult:
    """One finished cell.

    Attributes:
        key: Content key in the store.
        condition: Its names.
        accuracy: Share of correct answers, among those given, with its interval.
        unanswered: Number of instances that could not be asked.
        aggregates: What the benchmark's authors report besides, by name, of the answers given.
        report: What each member of the stack reported of itself, by member, and under `prefill`
            what the first batch was counted to cost.
        facts: Further numbers and texts: median times, visual tokens, versions.
    """

    key: str
    condition: Condition
    accuracy: MetricValue
    unanswered: int = 0
    aggregates: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A cell beside its baseline.

    Attributes:
        key: Key of the cell.
        base_key: Key of its baseline.
        condition: Names of the cell.
        metrics: Every metric with its interval; docs/statistics.md tells which there are and
            what each needs.
        floor: The metrics of the baseline against itself in other batch compositions.
        counts: The table that everything derives from.
        floor_counts: The same table of the baseline against itself, over all repeats.
        self_floor: The metrics of the accelerated model against itself in other batch
            compositions; empty where that was not asked for.
        self_floor_counts: The same table of that, over all repeats.
        slices: The main metrics by slice name and level, and for each rate a p-value, corrected
            over the whole experiment, of its difference from the other rows (`…_q`, exploratory).
        worst: The slice that is hurt most; None where none is large enough.
        causes: Number of changed answers by cause: semantic, format, truncation, error.
        label_preserved: False where the perturbation may change the right answer of some
            instances, so that only divergence is to be read.
    """

    key: str
    base_key: str
    condition: Condition
    metrics: Metrics
    floor: Metrics
    counts: Counts
    floor_counts: Counts = field(default_factory=Counts)
    self_floor: Metrics = field(default_factory=dict)
    self_floor_counts: Counts = field(default_factory=Counts)
    slices: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    worst: WorstSlice | None = None
    causes: Mapping[str, int] = field(default_factory=dict)
    label_preserved: bool = True


@dataclass(frozen=True)
class Summary:
    """Numbers over several comparisons of one stack.

    Attributes:
        condition: Names of the stack; the benchmark or the perturbation is the name of the whole.
        members: Names of what it is made of.
        metrics: The numbers.
        floor: Those of them that every member's noise floor has.
        self_floor: The same of the accelerated models against themselves.
    """

    condition: Condition
    members: tuple[str, ...]
    metrics: Metrics
    floor: Metrics = field(default_factory=dict)
    self_floor: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A cell without outcomes, and why: `failed` or `unsupported`."""

    condition: Condition
    status: str
    reason: str


@dataclass(frozen=True)
class Judged:
    """What a gate says of one cell.

    Attributes:
        condition: Names of the cell.
        verdict: What follows for the limit.
        reason: Why, in a sentence.
        estimate: The metric with one-sided bounds, pairs that could not be compared counted as
            harmed: what the verdict rests on. None where there are no outcomes.
        complete: The same without such pairs.
        floor: The same of the baseline against itself; None where it was not measured, or where
            the metric is beyond it.
        missing: Number of pairs that could not be compared.
    """

    condition: Condition
    verdict: Verdict
    reason: str
    estimate: Estimate | None = None
    complete: Estimate | None = None
    floor: Estimate | None = None
    missing: int = 0


@dataclass(frozen=True)
class GateResult:
    """A gate and what it says.

    Attributes:
        metric: What is limited.
        limit: The limit.
        at_least: Whether it is a lower one.
        confidence: One-sided, of each verdict.
        where: Which names it is narrowed down to, by field.
        verdict: Over all its cells: each has to pass.
        cells: The cells that it judges; controls never are.
    """

    metric: str
    limit: float
    at_least: bool
    confidence: float
    where: Mapping[str, tuple[str, ...]]
    verdict: Verdict
    cells: tuple[Judged, ...]


@dataclass(frozen=True)
class Results:
    """All that came of an experiment.

    Attributes:
        name: The experiment's name.
        spec_hash: Hash of the spec as resolved; empty where there was none.
        estimand: `matched`, `deployed`, or `elsewhere` for answers of others.
        cells: Finished cells, baselines included.
        comparisons: Each stack and control beside its baseline.
        failures: Cells without outcomes.
        notices: Sentences that every page made from these results must show.
        summaries: Means over benchmarks, and corruption errors over perturbations.
        thresholds: What the numbers depend on besides the answers, such as `near_tie_nats`.
        gates: What the gates of the spec say.
        foresight: What the `foresight_` metrics were asked for; None if they were not.
    """

    name: str
    spec_hash: str
    estimand: str
    cells: tuple[CellResult, ...]
    comparisons: tuple[Comparison, ...]
    failures: tuple[Failure, ...] = ()
    notices: tuple[str, ...] = ()
    summaries: tuple[Summary, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    foresight: ForesightRule | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Over all gates; None where there are none."""
        return combined(gate.verdict for gate in self.gates) if self.gates else None

    def aggregates(self, comparison: Comparison) -> dict[str, tuple[float, float]]:
        """The benchmark's own scores of a comparison, by name: the baseline's, then the cell's."""
        of = {cell.key: cell.aggregates for cell in self.cells}
        base, variant = of.get(comparison.base_key, {}), of.get(comparison.key, {})
        return {name: (base[name], variant[name]) for name in variant if name in base}


@dataclass(frozen=True)
class Change:
    """One instance whose answer differs between baseline and stack, ready to be shown.

    Attributes:
        instance_id: Identity of the question.
        question: As it was asked, options included.
        gold: The references, readable.
        base_text: What the baseline wrote.
        base_answer: What was read out of it, empty if nothing.
        variant_text: What the accelerated model wrote.
        variant_answer: What was read out of it, empty if nothing.
        kind: `negative` (right to wrong), `positive`, `wrong_churn`, `right_churn`.
        cause: `semantic`, `format`, `truncation` or `error`.
        base_margin: Log-probability lead of the baseline's first token over the next, or None.
        variant_margin: The same of the accelerated model.
        slices: The slices that the instance is in.
        thumbnail: The image as the models saw it, as JPEG or PNG bytes; empty if not wanted.
    """

    instance_id: str
    question: str
    gold: str
    base_text: str
    base_answer: str
    variant_text: str
    variant_answer: str
    kind: str
    cause: str
    base_margin: float | None
    variant_margin: float | None
    slices: Mapping[str, str]
    thumbnail: bytes = b""
