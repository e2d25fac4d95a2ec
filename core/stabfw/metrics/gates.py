"""Whether a metric keeps to a limit: bounds that a gate may rely on, and what follows from them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np

from .intervals import (
    Interval,
    mean_interval,
    paired_difference_interval,
    proportion_interval,
)
from .pairs import BoolArray, IntArray, Pairs, locate
from .stability import stacked

#: With fewer independent clusters (pictures, patients), clustered intervals cover too little.
MIN_CLUSTERS = 100

Outcome = Literal["correct_loss", "negative_flip", "divergence"]

#: The rates that can be gated, and what each counts.
RATES: dict[str, Outcome] = {
    "correct_loss_rate": "correct_loss",
    "negative_flip_rate": "negative_flip",
    "divergence_ratio": "divergence",
}
#: The same beyond the noise floor.
EXCESSES: dict[str, Outcome] = {
    "excess_correct_loss": "correct_loss",
    "excess_divergence": "divergence",
}
#: What is bounded from below.
DELTA = "accuracy_delta"


class Verdict(enum.StrEnum):
    """What a gate says."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURABLE = "not_measurable"
    FAIL = "fail"


_WORSE = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.NOT_MEASURABLE, Verdict.FAIL)


@dataclass(frozen=True)
class Estimate:
    """A metric with a one-sided bound at either end.

    Attributes:
        value: The estimate; None without rows.
        low: The true value lies above it with the confidence asked for.
        high: The true value lies below it, likewise.
        n: Rows that it rests on.
        clusters: How many of them are independent: pictures, patients.
        method: How the bounds were obtained.
    """

    value: float | None
    low: float
    high: float
    n: int
    clusters: int
    method: str


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Return what holds over all: every cell has to pass.

    An intersection-union test: each cell at its own confidence, no correction. A fail weighs more
    than what could not be measured, that more than what is open. Nothing judged is open.

    Source:
        Berger, Technometrics 24 (1982).

    Example:
        >>> combined([Verdict.PASS, Verdict.INCONCLUSIVE]).value
        'inconclusive'
    """
    return max(verdicts, key=_WORSE.index, default=Verdict.INCONCLUSIVE)


def harms(
    pairs: Pairs, outcome: Outcome, *, worst_case: bool = True
) -> tuple[BoolArray, BoolArray]:
    """Return which rows a rate is taken over, and in which of them the harm was done.

    Args:
        pairs: The joined cells.
        outcome: `correct_loss`, among what the baseline gets right; `negative_flip`, among all;
            `divergence`, another answer, among all.
        worst_case: Count pairs that could not be compared as harmed, so that a crash cannot help
            a gate to pass; else leave them out. Where the baseline is known to be wrong, no right
            answer can have been lost, and the pair is left out.

    Returns:
        Two masks of shape ``(n,)``; the second lies within the first.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> a = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
        >>> b = Outcomes.from_columns(["q1"], answer=["A"], correct=[True])
        >>> harms(pair(a, b), "correct_loss")[1].tolist()
        [False, True]
    """
    valid, base = pairs.valid, pairs.base
    if outcome == "divergence":
        among, harmed, unknown = valid, pairs.changed & valid, ~valid
    else:
        among = valid & base.correct if outcome == "correct_loss" else valid
        harmed = valid & base.correct & ~pairs.variant.correct
        unknown = ~valid & (base.correct | ~base.usable)
    return (among | unknown, harmed | unknown) if worst_case else (among, harmed)


def gate_estimate(
    metric: str,
    pairs: Pairs,
    repeats: Sequence[Pairs] = (),
    confidence: float = 0.95,
    *,
    worst_case: bool = True,
) -> Estimate:
    """Bound a metric as a gate needs it.

    Rates: Clopper-Pearson where no rows share a cluster, else Korn-Graubard. Differences (the
    change of accuracy, what lies beyond the noise floor): the wider of the paired interval and of
    one made of exact bounds on both parts. The paired one alone rests on an estimated variance,
    which is far too small where only a handful of rows differ: with one loss in 300 it would let
    a true loss of 1 % pass in a fifth of all cases instead of a twentieth.

    Args:
        metric: One of `RATES` or `EXCESSES`, or `DELTA`.
        pairs: The joined cells.
        repeats: The baseline and its repeats, for `EXCESSES`.
        confidence: One-sided, of each bound.
        worst_case: Whether pairs that could not be compared count as harmed.

    Raises:
        ValueError: The metric cannot be gated, or its noise floor is missing.

    Source:
        Zou and Donner, Statistics in Medicine 27 (2008), for bounds on a difference from those on
        its parts.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> ids = [str(i) for i in range(299)]
        >>> run = Outcomes.from_columns(ids, answer=["A"] * 299, correct=[True] * 299)
        >>> round(gate_estimate("correct_loss_rate", pair(run, run)).high, 4)
        0.01
    """
    if metric in EXCESSES:
        if not repeats:
            raise ValueError(f"{metric} needs a noise floor")
        return _excess(pairs, repeats, EXCESSES[metric], 2 * confidence - 1, worst_case)
    return _estimate(metric, pairs, 2 * confidence - 1, worst_case, repeated=False)


def floor_estimate(
    metric: str, repeats: Sequence[Pairs], confidence: float = 0.95
) -> Estimate | None:
    """Bound a metric of the baseline against its own repeats; None where it has no such floor.

    Args:
        metric: One of `RATES` or `EXCESSES`, or `DELTA`.
        repeats: The baseline and its repeats.
        confidence: One-sided, of each bound.
    """
    if metric in EXCESSES or not repeats:
        return None
    return _estimate(metric, stacked(repeats), 2 * confidence - 1, False, repeated=True)


def decide(
    found: Estimate, limit: float, floor: Estimate | None = None, *, at_least: bool = False
) -> tuple[Verdict, str]:
    """Say what follows for a limit, and why.

    Args:
        found: The metric.
        limit: What it may not exceed, or with `at_least` not fall below.
        floor: The same metric of the baseline against itself, if known. A floor in which nothing
            got worse breaks no limit, however few rows it rests on.
        at_least: Whether the limit is a lower one.

    Returns:
        The verdict, and a sentence.

    Example:
        >>> decide(Estimate(0.0, 0.0, 0.0099, 299, 299, ""), 0.01)[0].value
        'pass'
    """
    best, worst = (found.high, found.low) if at_least else (found.low, found.high)
    sign = -1 if at_least else 1
    if found.clusters < MIN_CLUSTERS:
        return Verdict.INCONCLUSIVE, (
            f"{found.clusters} independent pictures are too few for a verdict: it takes "
            f"{MIN_CLUSTERS}"
        )
    if floor is not None and floor.value and sign * floor.value > 0:
        noise = floor.low if at_least else floor.high
        if sign * noise > sign * limit:
            told = "the baseline against itself already breaks the limit"
            if sign * best > sign * noise:
                told += ", but the accelerated model by more than that"
            return Verdict.NOT_MEASURABLE, told
    if sign * worst < sign * limit:
        return Verdict.PASS, "the bound keeps to the limit"
    if sign * best > sign * limit:
        return Verdict.FAIL, "the whole interval breaks the limit"
    return Verdict.INCONCLUSIVE, "the interval covers the limit: more questions would tell"


def _estimate(
    metric: str, pairs: Pairs, confidence: float, worst_case: bool, *, repeated: bool
) -> Estimate:
    """Bound a rate or the change of accuracy; rows may repeat the same instances."""
    if metric not in RATES and metric != DELTA:
        raise ValueError(f"{metric!r} cannot be gated")
    among, harmed = harms(pairs, RATES.get(metric, "negative_flip"), worst_case=worst_case)
    hits, codes = harmed[among], pairs.cluster_codes[among]
    n = len(hits)
    # Repeats sharpen an estimate, but are no new instances.
    distinct = len(set(pairs.instance_id[among].tolist())) if repeated else n

    def bounds(flags: BoolArray) -> Interval:
        return proportion_interval(flags, codes, confidence, exact=True, max_n=distinct)

    lost = float(np.count_nonzero(hits)) / max(n, 1)
    if metric in RATES:
        return _found(lost, bounds(hits), codes)
    if not n:
        return Estimate(None, -1.0, 1.0, 0, 0, "wider of two")
    before = (pairs.base.correct | harmed)[among]
    after = (pairs.variant.correct & ~harmed)[among]
    repaired = after & ~before
    paired = paired_difference_interval(after, before, codes, confidence)
    gain = float(repaired.mean())
    exact = _difference(gain, bounds(repaired), lost, bounds(hits))
    return _found(gain - lost, _wider(paired, exact), codes)


def _excess(
    pairs: Pairs, repeats: Sequence[Pairs], outcome: Outcome, confidence: float, worst_case: bool
) -> Estimate:
    among, harmed = harms(pairs, outcome, worst_case=worst_case)
    noise = np.zeros((len(pairs), len(repeats)), dtype=np.bool_)
    known = np.zeros(len(pairs), dtype=np.bool_)
    for place, repeat in enumerate(repeats):
        valid, hit = harms(repeat, outcome, worst_case=False)
        row = locate(pairs.instance_id, repeat.instance_id)
        here = np.flatnonzero(row >= 0)
        noise[here, place] = hit[row[here]]
        known[here] |= valid[row[here]]
    if not worst_case:
        among &= known
    hits, again, codes = harmed[among], noise[among], pairs.cluster_codes[among]
    n = len(hits)
    if not n:
        return Estimate(None, -1.0, 1.0, 0, 0, "wider of two")
    values = hits - again.mean(axis=1)
    paired = mean_interval(values, codes, confidence, limits=(-1.0, 1.0))
    floor = proportion_interval(
        again.ravel(), np.repeat(codes, len(repeats)), confidence, exact=True, max_n=n
    )
    loss = proportion_interval(hits, codes, confidence, exact=True)
    exact = _difference(float(hits.mean()), loss, float(again.mean()), floor)
    return _found(float(values.mean()), _wider(paired, exact), codes)


def _found(value: float, bounds: Interval, codes: IntArray) -> Estimate:
    n = len(codes)
    clusters = len(np.unique(codes))
    return Estimate(value if n else None, bounds.low, bounds.high, n, clusters, bounds.method)


def _difference(p: float, first: Interval, q: float, second: Interval) -> Interval:
    """Bound p − q by the bounds on both, taken as uncorrelated."""
    low = p - q - sqrt((p - first.low) ** 2 + (second.high - q) ** 2)
    high = p - q + sqrt((first.high - p) ** 2 + (q - second.low) ** 2)
    return Interval(max(low, -1.0), min(high, 1.0), "exact parts")


def _wider(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high), "wider of two")
