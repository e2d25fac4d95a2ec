"""What looking at many numbers at once asks for: corrected p-values, worst slices, averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from .intervals import design_effect, mean_p_value, proportion_interval, sandwich_error
from .pairs import BoolArray, FloatArray, IntArray, Pairs
from .stability import MetricValue, metric_value

#: Slices with fewer rows are not asked which one is the worst.
SLICE_MIN_N = 30


@dataclass(frozen=True)
class WorstSlice:
    """The slice with the highest rate, picked after looking at all of them.

    Attributes:
        slice: Name of the slice.
        level: Its level.
        rate: The rate there. Its interval holds for all slices that were looked at together.
        p_holm: Holm-adjusted p-value of its rate being no higher than that of all other rows;
            None where it could not be tested.
        looked_at: Number of slices with enough rows.
        min_n: Rows that were enough.
    """

    slice: str
    level: str
    rate: MetricValue
    p_holm: float | None
    looked_at: int
    min_n: int


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values so that any claim picked among them errs at the nominal rate.

    Args:
        p_values: None where there is no test; such stay None and are not counted.

    Source:
        Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> holm([0.01, None, 0.04])
        [0.02, None, 0.04]
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values so that few of all claims made are false; for exploring, not for claims.

    Args:
        p_values: None where there is no test; such stay None and are not counted.

    Source:
        Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995).

    Example:
        >>> benjamini_hochberg([0.01, None, 0.04])
        [0.02, None, 0.04]
    """
    from scipy.stats import false_discovery_control

    known = [p for p in p_values if p is not None]
    found = iter(false_discovery_control(known).tolist() if known else [])
    return [None if p is None else next(found) for p in p_values]


def accuracy_change_p(pairs: Pairs) -> MetricValue:
    """Test that as many answers were repaired as lost, aware of shared clusters.

    Exact binomial (McNemar) for independent instances, else the cluster-robust t test of the
    paired difference. Two-sided.

    Args:
        pairs: The joined cells.

    Returns:
        ``accuracy_delta_p``; None where nothing could vary.
    """
    from scipy.stats import binomtest

    name = "accuracy_delta_p"
    rows = np.flatnonzero(pairs.valid)
    codes = pairs.cluster_codes[rows]
    change = pairs.variant.correct[rows].astype(np.float64) - pairs.base.correct[rows]
    n = len(rows)
    if not n:
        return MetricValue(name, None, None, None, 0, "exact-binomial")
    lost, repaired = int(np.count_nonzero(change < 0)), int(np.count_nonzero(change > 0))
    if lost + repaired == 0:
        return MetricValue(name, 1.0, None, None, n, "exact-binomial")
    if int(np.bincount(codes).max()) == 1:
        p = float(binomtest(lost, lost + repaired).pvalue)
        return MetricValue(name, p, None, None, n, "exact-binomial")
    return MetricValue(name, mean_p_value(change, codes), None, None, n, "cluster-t")


def contrast_p(
    hits: BoolArray, inside: BoolArray, codes: IntArray, *, greater: bool = False
) -> float | None:
    """Test that a rate is the same inside a slice as outside of it.

    Fisher's exact test for independent rows, else a t test of the difference. Its error is the
    larger of the cluster-robust one, which vanishes with the hits of a small slice, and that of
    one common rate with the design effects of both sides (Rao and Scott 1981).

    Args:
        hits: Shape ``(n,)``.
        inside: Which rows are in the slice, shape ``(n,)``.
        codes: Cluster codes, shape ``(n,)``.
        greater: Test against a higher rate inside only, instead of another one.

    Returns:
        The p-value; None where one side is empty, or nothing varies.

    Example:
        >>> hits = np.array([True] * 5 + [False] * 5)
        >>> round(contrast_p(hits, hits, np.arange(10)), 4)
        0.0079
    """
    from scipy.stats import fisher_exact, t

    sizes = int(np.count_nonzero(inside)), int(np.count_nonzero(~inside))
    if not all(sizes) or hits.all() or not hits.any():
        return None
    k, others = int(np.count_nonzero(hits & inside)), int(np.count_nonzero(hits & ~inside))
    if int(np.bincount(codes).max()) == 1:
        table = [[k, sizes[0] - k], [others, sizes[1] - others]]
        return float(fisher_exact(table, "greater" if greater else "two-sided").pvalue)
    rates = k / sizes[0], others / sizes[1]
    influence = np.where(inside, (hits - rates[0]) / sizes[0], (rates[1] - hits) / sizes[1])
    robust, m = sandwich_error(influence, codes)
    if m < 2:
        return None
    common = float(hits.mean())
    variance = sum(
        common * (1 - common) * design_effect(hits[side], codes[side]) / size
        for side, size in zip((inside, ~inside), sizes, strict=True)
    )
    error = max(robust, sqrt(variance))
    statistic = (rates[0] - rates[1]) / error
    p = float(t.sf(statistic if greater else abs(statistic), m - 1))
    return p if greater else 2 * p


def slice_rows(pairs: Pairs, rate: str) -> tuple[BoolArray, IntArray]:
    """Return what a slice is asked for: hits, and the rows they are among.

    Args:
        pairs: The joined cells.
        rate: ``correct_loss_rate`` or ``divergence_ratio``.

    Raises:
        ValueError: It is another rate.
    """
    if rate == "divergence_ratio":
        rows = np.flatnonzero(pairs.valid)
        return pairs.changed[rows], rows
    if rate == "correct_loss_rate":
        rows = np.flatnonzero(pairs.valid & pairs.base.correct)
        return ~pairs.variant.correct[rows], rows
    raise ValueError(f"unknown rate {rate!r}; use 'divergence_ratio' or 'correct_loss_rate'")


def slice_contrasts(pairs: Pairs, rate: str) -> dict[tuple[str, str], float | None]:
    """Test each level of each slice against all other rows, two-sided and uncorrected.

    Args:
        pairs: The joined cells.
        rate: As for `slice_rows`.

    Returns:
        The p-value by slice and level; None where there is no test.
    """
    hits, rows = slice_rows(pairs, rate)
    codes = pairs.cluster_codes[rows]
    return {
        (name, level): contrast_p(hits, inside, codes)
        for name, level, inside in _levels(pairs, rows)
    }


def worst_slice(
    pairs: Pairs,
    rate: str = "correct_loss_rate",
    *,
    min_n: int = SLICE_MIN_N,
    confidence: float = 0.95,
) -> WorstSlice | None:
    """Find the slice that is hurt most, allowing for the search.

    Args:
        pairs: The joined cells.
        rate: As for `slice_rows`.
        min_n: Leave out levels with fewer rows.
        confidence: Two-sided coverage of the interval, over all slices that were looked at.

    Returns:
        The level with the highest rate, over all slices; None where no level has enough rows.
        The interval is exact and Bonferroni's, since a step-down procedure has none of its own.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> ids = [f"q{i}" for i in range(80)]
        >>> kind = {"kind": ["count"] * 40 + ["colour"] * 40}
        >>> a = Outcomes.from_columns(ids, answer=["A"] * 80, correct=[True] * 80, slices=kind)
        >>> b = Outcomes.from_columns(ids, answer=["B"] * 9 + ["A"] * 71,
        ...     correct=[False] * 9 + [True] * 71, slices=kind)
        >>> worst = worst_slice(pair(a, b))
        >>> worst.level, worst.rate.value, round(worst.p_holm, 4)
        ('count', 0.225, 0.0024)
    """
    hits, rows = slice_rows(pairs, rate)
    codes = pairs.cluster_codes[rows]
    known = [
        (name, level, inside)
        for name, level, inside in _levels(pairs, rows)
        if np.count_nonzero(inside) >= min_n
    ]
    if not known:
        return None
    shares = [float(hits[inside].mean()) for _, _, inside in known]
    adjusted = holm([contrast_p(hits, inside, codes, greater=True) for _, _, inside in known])
    worst = int(np.argmax(shares))
    name, level, inside = known[worst]
    level_confidence = 1 - (1 - confidence) / len(known)
    bounds = proportion_interval(hits[inside], codes[inside], level_confidence, exact=True)
    return WorstSlice(
        slice=name,
        level=level,
        rate=metric_value(rate, shares[worst], bounds, int(np.count_nonzero(inside))),
        p_holm=adjusted[worst],
        looked_at=len(known),
        min_n=min_n,
    )


def macro_average(members: Sequence[MetricValue]) -> MetricValue:
    """Average a metric over benchmarks, each with the same weight, with an interval of its own.

    The distances from each member's estimate to its bounds are added in squares, which keeps
    intervals that are not symmetric. The benchmarks are taken as independent of one another.

    Args:
        members: The same metric of each benchmark; at least one.

    Returns:
        The mean; None where a member has no value, without interval where one has none. ``n``
        is the sum.

    Source:
        Zou and Donner, Statistics in Medicine 27 (2008), equation 7 (recovery of variance
        estimates from confidence limits).

    Example:
        >>> one = MetricValue("divergence_ratio", 0.1, 0.07, 0.14, 300, "wilson")
        >>> mean = macro_average([one, one])
        >>> mean.value, round(mean.low, 4), round(mean.high, 4)
        (0.1, 0.0788, 0.1283)
    """
    name, n = members[0].name, sum(member.n for member in members)
    values = [member.value for member in members if member.value is not None]
    if len(values) < len(members):
        return MetricValue(name, None, None, None, n, "mover")
    value = sum(values) / len(values)
    found = MetricValue(name, value, None, None, n, "mover")
    if any(member.low is None or member.high is None for member in members):
        return found

    def reach(bounds: FloatArray) -> float:
        return sqrt(float(((bounds - np.array(values)) ** 2).sum())) / len(values)

    low = value - reach(np.array([member.low for member in members], dtype=np.float64))
    high = value + reach(np.array([member.high for member in members], dtype=np.float64))
    return replace(found, low=low, high=high)


def _levels(pairs: Pairs, rows: IntArray) -> list[tuple[str, str, BoolArray]]:
    """Every level of every slice, in alphabetical order, and which of the rows are in it."""
    found = []
    for name, column in pairs.slices.items():
        own = column[rows]
        for level in sorted({v for v in own.tolist() if v is not None}, key=str):
            found.append((name, str(level), np.asarray(own == level, dtype=np.bool_)))
    return found
