"""Confidence intervals that respect questions sharing an image.

Every interval is two-sided at ``confidence``; a one-sided 95 % bound is the matching end of a
90 % interval. Cluster labels may be anything hashable; small non-negative integers are used as
they are, so factorise once and pass the codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pairs import BoolArray, FloatArray, IntArray, factorize

MIN_ICC = 0.05
#: What few events leave unknown of their clustering: as if so many more clusters had told this ICC.
PRIOR_CLUSTERS = 4
PRIOR_ICC = 0.5
MAX_BOOTSTRAP_UNITS = 4000


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end, in the unit of the estimate; NaN where the data do not bound it.
        high: Upper end, likewise.
        method: How it was obtained.
    """

    low: float
    high: float
    method: str


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Bound a proportion of independent trials by Wilson's score interval.

    Args:
        k: Successes.
        n: Trials; 0 gives (0, 1).
        confidence: Two-sided coverage.

    Example:
        >>> round(wilson(0, 10).high, 3)
        0.278
    """
    from scipy.stats import binomtest

    if n == 0:
        return Interval(0.0, 1.0, "wilson")
    found = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return _containing(k / n, float(found.low), float(found.high), "wilson")


def clopper_pearson(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Bound a proportion exactly (Clopper and Pearson 1934).

    Args:
        k: Successes; may be fractional, as an effective count is.
        n: Trials; may be fractional; 0 gives (0, 1).
        confidence: Two-sided coverage.

    Example:
        >>> round(clopper_pearson(0, 299, 0.90).high, 4)
        0.01
    """
    from scipy.stats import beta

    if n <= 0:
        return Interval(0.0, 1.0, "clopper-pearson")
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return _containing(k / n, low, high, "clopper-pearson")


def design_effect(successes: BoolArray, clusters: NDArray[Any]) -> float:
    """Return the variance inflation of a proportion because rows share clusters.

    The larger of the sandwich design effect and 1 + (Σs²/n − 1)·max(ICC, 0.05), where s are the
    cluster sizes and ICC is the analysis-of-variance intraclass correlation. Exactly 1 when
    every cluster has one row.

    Args:
        successes: Shape ``(n,)``.
        clusters: Labels, shape ``(n,)``.

    Source:
        Korn and Graubard, Survey Methodology 24 (1998), with a floor on the ICC for samples
        too clean to show any.

    Example:
        >>> design_effect(np.array([True, True, False]), np.array([0, 1, 2]))
        1.0
    """
    hits, sizes = _proportion_totals(successes, _codes(clusters))
    return _design_effect(hits, sizes)


def effective_size(successes: BoolArray, clusters: NDArray[Any], confidence: float = 0.95) -> float:
    """Return how many independent rows clustered ones are worth to a gate.

    As `korn_graubard` sees it with ``cautious``.

    Args:
        successes: Shape ``(n,)``.
        clusters: Labels, shape ``(n,)``.
        confidence: Two-sided coverage of the interval that is to be made.

    Returns:
        At most n, and n where every cluster has one row; 0 for fewer than two clusters.

    Example:
        >>> effective_size(np.zeros(3, dtype=bool), np.array([0, 1, 2]))
        3.0
    """
    hits, sizes = _proportion_totals(successes, _codes(clusters))
    if len(sizes) < 2:
        return 0.0
    return min(_effective_size(hits, sizes, confidence, cautious=True), float(len(successes)))


def korn_graubard(
    successes: BoolArray,
    clusters: NDArray[Any],
    confidence: float = 0.95,
    *,
    cautious: bool = False,
    max_n: int | None = None,
) -> Interval:
    """Bound a proportion of clustered rows: Clopper-Pearson on the effective sample size.

    n_eff = n / `design_effect`, times (t_{n-1} / t_{m-1})² for m clusters, never above n. With
    one row per cluster this is Clopper-Pearson; with one cluster nothing is known.

    A handful of successes can lie in as many clusters by luck, and the bound is then too tight.
    ``cautious`` draws the intraclass correlation towards 0.5 with the weight of four clusters:
    (w·max(ICC, 0) + 4·0.5) / (w + 4), where w is the number of clusters that have a success, or
    a failure if these are fewer, and at least 1. Where clusters are large, a few successes in
    several of them would still bound tighter than none at all does; the bound of none is kept to.

    Args:
        successes: Shape ``(n,)``.
        clusters: Labels, shape ``(n,)``.
        confidence: Two-sided coverage.
        cautious: Allow for how little a few successes tell of their clustering.
        max_n: Cap on the effective sample size, for rows that repeat the same instances.

    Source:
        Korn and Graubard, Survey Methodology 24 (1998), section 2.

    Example:
        >>> hits = np.zeros(8, dtype=bool)
        >>> round(korn_graubard(hits, np.array([0, 0, 1, 1, 2, 2, 3, 3])).high, 3)
        0.584
    """
    hits, sizes = _proportion_totals(successes, _codes(clusters))
    n = len(successes)
    if len(sizes) < 2:
        return Interval(0.0, 1.0, "korn-graubard")
    most = min(n, max_n or n)
    n_eff = min(_effective_size(hits, sizes, confidence, cautious=cautious), most)
    share = float(hits.sum()) / n
    exact = clopper_pearson(share * n_eff if share < 1 else n_eff, n_eff, confidence)
    low, high = exact.low, exact.high
    if cautious:
        clean = min(_effective_size(np.zeros_like(hits), sizes, confidence, cautious=True), most)
        none = clopper_pearson(0, clean, confidence).high
        low, high = min(low, 1 - none), max(high, none)
    return _containing(share, low, high, "korn-graubard")


def proportion_interval(
    successes: BoolArray | tuple[int, int],
    clusters: NDArray[Any] | None = None,
    confidence: float = 0.95,
    *,
    exact: bool = False,
    max_n: int | None = None,
) -> Interval:
    """Bound a proportion with the method its sampling asks for.

    Independent rows (no clusters, or one row in each) get Wilson, or Clopper-Pearson when
    ``exact``, which is what a gate should use. Clustered rows get Korn-Graubard.

    Args:
        successes: One value per row, shape ``(n,)``, or the counts ``(k, n)``.
        clusters: Labels, shape ``(n,)``; None for independent rows.
        confidence: Two-sided coverage.
        exact: Guarantee the coverage for independent rows, and be cautious with clustered ones.
        max_n: Cap on the effective sample size of clustered rows.

    Raises:
        ValueError: Clusters are given for counts.

    Example:
        >>> proportion_interval((5, 10)).method
        'wilson'
    """
    if isinstance(successes, tuple):
        if clusters is not None:
            raise ValueError("clusters need one success per row, not counts")
        k, n = successes
    else:
        codes = None if clusters is None else _codes(clusters)
        if codes is not None and not _all_singletons(codes):
            return korn_graubard(successes, codes, confidence, cautious=exact, max_n=max_n)
        k, n = int(np.count_nonzero(successes)), len(successes)
    return clopper_pearson(k, n, confidence) if exact else wilson(k, n, confidence)


def newcombe_paired(
    both: int, first_only: int, second_only: int, neither: int, confidence: float = 0.95
) -> Interval:
    """Bound the difference of two proportions measured on the same independent rows.

    Args:
        both: Rows where both succeed.
        first_only: Rows where only the first succeeds.
        second_only: Rows where only the second succeeds.
        neither: Rows where none succeeds.
        confidence: Two-sided coverage.

    Returns:
        Bounds on first minus second; (-1, 1) without rows.

    Source:
        Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10; the example is Table I
        of Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014).

    Example:
        >>> bounds = newcombe_paired(1, 1, 7, 12)
        >>> round(bounds.low, 3), round(bounds.high, 3)
        (-0.507, -0.026)
    """
    n = both + first_only + second_only + neither
    if n == 0:
        return Interval(-1.0, 1.0, "newcombe-10")
    first, second = both + first_only, both + second_only
    p, q = first / n, second / n
    p_ci, q_ci = wilson(first, n, confidence), wilson(second, n, confidence)
    margins = first * (n - first) * second * (n - second)
    cross = float(both * neither - first_only * second_only)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    delta = (first_only - second_only) / n
    low = delta - reach(p - p_ci.low, q_ci.high - q)
    high = delta + reach(p_ci.high - p, q - q_ci.low)
    return _containing(delta, max(low, -1.0), min(high, 1.0), "newcombe-10")


def mean_interval(
    values: FloatArray,
    clusters: NDArray[Any] | None = None,
    confidence: float = 0.95,
    *,
    limits: tuple[float, float] | None = None,
) -> Interval:
    """Bound a mean by the cluster-robust t interval (CR1 sandwich, clusters − 1 degrees).

    Values that do not vary carry no variance to estimate. With known ``limits``, the interval
    then allows for the largest share of deviating rows that such a sample is compatible with
    (`korn_graubard` on 0 of n), each deviating to the limit; without, it is a point.

    Args:
        values: Shape ``(n,)``, finite.
        clusters: Labels, shape ``(n,)``; None for independent rows.
        confidence: Two-sided coverage.
        limits: Smallest and largest possible value; the interval stays within.

    Returns:
        The interval; the limits, or NaN without limits, from fewer than two clusters.

    Source:
        Liang and Zeger, Biometrika 73 (1986); equals statsmodels'
        ``OLS(y, 1).fit(cov_type="cluster", use_t=True)``.

    Example:
        >>> bounds = mean_interval(np.array([0.0, 1.0, 1.0, 2.0]))
        >>> round(bounds.low, 2), round(bounds.high, 2)
        (-0.3, 2.3)
    """
    from scipy.stats import t

    method = "cluster-t"
    low_limit, high_limit = limits if limits is not None else (float("nan"), float("nan"))
    n = len(values)
    codes = np.arange(n, dtype=np.int64) if clusters is None else _codes(clusters)
    sizes = np.bincount(codes)
    m = int(np.count_nonzero(sizes))
    if m < 2:
        return Interval(low_limit, high_limit, method)
    mean = float(values.mean())
    if float(np.ptp(values)) == 0.0:
        if limits is None:
            return Interval(mean, mean, method)
        share = korn_graubard(np.zeros(n, dtype=np.bool_), codes, confidence).high
        low, high = mean - share * (mean - low_limit), mean + share * (high_limit - mean)
        return _containing(mean, low, high, "constant-exact")
    error, _ = sandwich_error((values - mean) / n, codes)
    reach = float(t.ppf((1 + confidence) / 2, m - 1)) * error
    low, high = mean - reach, mean + reach
    if limits is not None:
        low, high = max(low, low_limit), min(high, high_limit)
    return _containing(mean, low, high, method)


def paired_difference_interval(
    first: BoolArray,
    second: BoolArray,
    clusters: NDArray[Any] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Bound the difference of two proportions on the same rows, first minus second.

    Newcombe's method 10 for independent rows, the cluster-robust t interval for clustered ones.

    Args:
        first: Shape ``(n,)``.
        second: Shape ``(n,)``.
        clusters: Labels, shape ``(n,)``; None for independent rows.
        confidence: Two-sided coverage.

    Example:
        >>> same = np.array([True, False, True])
        >>> paired_difference_interval(same, same).method
        'newcombe-10'
    """
    codes = None if clusters is None else _codes(clusters)
    if codes is not None and not _all_singletons(codes):
        difference = first.astype(np.float64) - second
        return mean_interval(difference, codes, confidence, limits=(-1.0, 1.0))
    both, either = int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))
    only = int(np.count_nonzero(first & ~second))
    return newcombe_paired(both, only, either - both - only, len(first) - either, confidence)


def bootstrap_interval(
    totals: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
    biased: bool = False,
) -> Interval:
    """Bound a function of sums by the bias-corrected accelerated bootstrap over clusters.

    Whole clusters are resampled. Because the statistic depends on sums alone, the jackknife
    behind the acceleration is the statistic of "all minus one cluster", linear in clusters. More
    than 4000 clusters are first dealt at random into 4000 groups, which are as independent as
    the clusters and leave the width of the interval within about 2 %.

    Args:
        totals: Sums of each cluster, shape ``(m, k)``.
        statistic: Maps sums of shape ``(r, k)`` to values of shape ``(r,)``; NaN if undefined.
        confidence: Two-sided coverage.
        resamples: Bootstrap samples.
        seed: Seed of the resampling; the same data and seed give the same interval.
        biased: For a statistic that noise pushes to one side, as a sum of distances is. Every
            draw is then pushed once more, so that hardly any lies on the other side of the
            estimate. The interval spans the percentiles of the draws and their mirror image
            about the estimate instead.

    Returns:
        The interval; NaN when the statistic is undefined, does not vary over the resamples, or
        is undefined in more than half of them.

    Source:
        Efron, Journal of the American Statistical Association 82 (1987), section 3.

    Example:
        >>> totals = np.array([[1.0, 2.0], [0.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
        >>> bounds = bootstrap_interval(totals, lambda s: s[:, 0] / s[:, 1])
        >>> bounds.low < 0.5 < bounds.high
        True
    """
    from scipy.stats import norm

    method = "bca-bootstrap"
    unknown = Interval(float("nan"), float("nan"), method)
    whole = totals.sum(axis=0)
    estimate = float(statistic(whole[None, :])[0])
    if len(totals) < 2 or not isfinite(estimate):
        return unknown
    rng = np.random.default_rng(seed)
    if len(totals) > MAX_BOOTSTRAP_UNITS:
        groups = rng.permutation(len(totals)) % MAX_BOOTSTRAP_UNITS
        totals = cluster_totals(groups, *totals.T)
    draws = statistic(_resampled_sums(totals, resamples, rng))
    draws = draws[np.isfinite(draws)]
    if not len(draws) or 2 * len(draws) < resamples or float(np.ptp(draws)) == 0.0:
        return unknown
    z = norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    if biased:
        low, high = np.quantile(draws, norm.cdf(z))
        ends = (float(low), float(high), 2 * estimate - float(low), 2 * estimate - float(high))
        return _containing(estimate, min(ends), max(ends), "mirrored-bootstrap")
    below = np.count_nonzero(draws < estimate) + np.count_nonzero(draws == estimate) / 2
    # The continuity keeps the bias finite when every draw lies on one side.
    bias = float(norm.ppf((below + 0.5) / (len(draws) + 1)))
    left_out = statistic(whole - totals)
    left_out = left_out[np.isfinite(left_out)]
    shift = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float((shift**2).sum())
    acceleration = float((shift**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    levels = norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    low, high = np.quantile(draws, levels)
    return _containing(estimate, float(low), float(high), method)


def sandwich_error(influence: FloatArray, codes: IntArray) -> tuple[float, int]:
    """Return the cluster-robust standard error of an estimate (CR1), and the number of clusters.

    Args:
        influence: How far each row moves the estimate, shape ``(n,)``: for a mean, the row's
            deviation from it over n.
        codes: Cluster codes, shape ``(n,)``.

    Returns:
        The error, NaN from fewer than two clusters, and the clusters that have rows.

    Source:
        Liang and Zeger, Biometrika 73 (1986). Without the factor m / (m − 1) it is equation 4 of
        Miller, "Adding error bars to evals" (arXiv 2411.00640).

    Example:
        >>> error, m = sandwich_error(np.array([-0.5, 0.5]), np.array([0, 1]))
        >>> round(error, 3), m
        (1.0, 2)
    """
    totals = np.bincount(codes, weights=influence)
    m = int(np.count_nonzero(np.bincount(codes)))
    if m < 2:
        return float("nan"), m
    return sqrt(m / (m - 1) * float(totals @ totals)), m


def mean_p_value(values: FloatArray, codes: IntArray) -> float | None:
    """Test that a mean is zero by the t test that belongs to `mean_interval`, two-sided.

    Args:
        values: Shape ``(n,)``, finite.
        codes: Cluster codes, shape ``(n,)``.

    Returns:
        The p-value: 1 where all values are 0; None where nothing else varies, or from fewer than
        two clusters.

    Example:
        >>> round(mean_p_value(np.array([0.0, 1.0, 1.0, 2.0]), np.arange(4)), 3)
        0.092
    """
    from scipy.stats import t

    if not values.any():
        return 1.0 if len(values) else None
    error, m = sandwich_error((values - values.mean()) / len(values), codes)
    return 2 * float(t.sf(abs(float(values.mean())) / error, m - 1)) if error > 0 else None


def cluster_totals(codes: IntArray, *columns: NDArray[Any]) -> FloatArray:
    """Sum columns within clusters.

    Args:
        codes: Cluster codes, shape ``(n,)``.
        *columns: Numbers or flags to sum, each of shape ``(n,)``.

    Returns:
        Sums of shape ``(m, len(columns))``, one row for each code that occurs.

    Example:
        >>> cluster_totals(np.array([0, 2, 0]), np.array([1, 2, 3])).tolist()
        [[4.0], [2.0]]
    """
    occurs = np.bincount(codes) > 0
    return np.stack([np.bincount(codes, weights=c)[occurs] for c in columns], axis=1)


def _codes(clusters: NDArray[Any]) -> IntArray:
    if clusters.dtype.kind not in "iu" or len(clusters) == 0:
        return factorize(clusters)
    # Sparse codes would make bincount allocate for the largest of them.
    if clusters.min() < 0 or clusters.max() > 10 * len(clusters) + 1_000_000:
        return factorize(clusters)
    return clusters.astype(np.int64, copy=False)


def _all_singletons(codes: IntArray) -> bool:
    return len(codes) == 0 or int(np.bincount(codes).max()) == 1


def _proportion_totals(successes: BoolArray, codes: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return successes and rows of each cluster that has rows."""
    sizes = np.bincount(codes)
    hits = np.bincount(codes[successes], minlength=len(sizes))
    return hits[sizes > 0].astype(np.float64), sizes[sizes > 0].astype(np.float64)


def _effective_size(
    hits: FloatArray, sizes: FloatArray, confidence: float, *, cautious: bool
) -> float:
    from scipy.stats import t

    n, m = float(sizes.sum()), len(sizes)
    quantile = (1 + confidence) / 2
    shrink = float(t.ppf(quantile, n - 1) / t.ppf(quantile, m - 1)) ** 2
    return n / _design_effect(hits, sizes, cautious=cautious) * shrink


def _design_effect(hits: FloatArray, sizes: FloatArray, *, cautious: bool = False) -> float:
    n, m = float(sizes.sum()), len(sizes)
    if m < 2 or n == m:
        return 1.0
    p = float(hits.sum()) / n
    mean_size = float((sizes**2).sum()) / n
    sandwich, icc = 1.0, 0.0
    if 0 < p < 1:
        residuals = hits - p * sizes
        variance = m / (m - 1) * float(residuals @ residuals) / n**2
        sandwich = variance / (p * (1 - p) / (n - 1))
        between = float((sizes * (hits / sizes - p) ** 2).sum()) / (m - 1)
        within = float((hits * (1 - hits / sizes)).sum()) / (n - m)
        typical_size = (n - mean_size) / (m - 1)
        icc = (between - within) / (between + (typical_size - 1) * within)
    if cautious:
        rarer = min(int(np.count_nonzero(hits)), int(np.count_nonzero(hits < sizes)))
        telling = max(rarer, 1)
        prior = PRIOR_CLUSTERS * PRIOR_ICC
        icc = (telling * max(icc, 0.0) + prior) / (telling + PRIOR_CLUSTERS)
    return max(sandwich, 1 + (mean_size - 1) * max(icc, MIN_ICC))


def _resampled_sums(totals: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    m = len(totals)
    times = np.empty((resamples, m))
    for row in times:
        row[:] = np.bincount(rng.integers(0, m, size=m), minlength=m)
    return times @ totals


def _containing(estimate: float, low: float, high: float, method: str) -> Interval:
    """Build an interval whose rounding errors never exclude the estimate."""
    return Interval(min(low, estimate), max(high, estimate), method)
