"""Whether a model's confidence is still usable: calibration and selective prediction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import (
    Interval,
    bootstrap_interval,
    sandwich_error,
)
from .pairs import BoolArray, FloatArray, IntArray, factorize
from .stability import MetricValue, mean_metric, metric_value

BINS = 15

_Values = list[MetricValue]


def confidence_metrics(
    before: Sequence[float] | FloatArray,
    after: Sequence[float] | FloatArray,
    right_before: Sequence[bool] | BoolArray,
    right_after: Sequence[bool] | BoolArray,
    clusters: Sequence[Hashable] | NDArray[Any],
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """Measure what a model's confidence says of its answers, before and after.

    Args:
        before: Probability that the baseline gives to its own answer, shape ``(n,)``.
        after: The same of the variant and its answer.
        right_before: Whether the baseline's answer is right, shape ``(n,)``.
        right_after: Whether the variant's is.
        clusters: Instances with the same label are not independent, shape ``(n,)``.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples behind the calibration errors.
        seed: Seed of the bootstrap.

    Returns:
        ``_base``, ``_variant`` and ``_delta`` (variant minus baseline) of

        - ``ece``, the expected calibration error over 15 bins of equal width: the mean distance
          between confidence and accuracy. It is never below zero, so noise alone raises it.
        - ``brier``, the mean squared distance between confidence and being right (0 or 1).
        - ``aurc``, the area under the risk-coverage curve: the mean, over all answers, of the
          error rate among the answers that are at least as confident.

        Lower is better for all. The Brier scores have cluster-robust t intervals, the areas the
        same of their influence function, the calibration errors a bootstrap over clusters that
        allows for their bias.

    Source:
        Guo et al., ICML 2017, equation 3 (calibration error); Brier, Monthly Weather Review 78
        (1950); Geifman and El-Yaniv, NeurIPS 2017 (risk-coverage curve).

    Example:
        >>> found = confidence_metrics(
        ...     [0.9, 0.6], [0.9, 0.6], [True, False], [False, True], ["a", "b"])
        >>> found["aurc_base"].value, found["aurc_variant"].value
        (0.25, 0.75)
    """
    sure = (np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64))
    right = (np.asarray(right_before, dtype=np.bool_), np.asarray(right_after, dtype=np.bool_))
    n = len(sure[0])
    codes = factorize(np.fromiter(clusters, dtype=object, count=n))
    found = _brier(sure, right, codes, confidence)
    found += _areas(sure, right, codes, confidence)
    found += _calibration(sure, right, codes, confidence, resamples, seed)
    return {metric.name: metric for metric in found}


def _brier(
    sure: tuple[FloatArray, FloatArray],
    right: tuple[BoolArray, BoolArray],
    codes: IntArray,
    confidence: float,
) -> _Values:
    one, other = ((c - r) ** 2 for c, r in zip(sure, right, strict=True))
    return [
        mean_metric(f"brier_{name}", values, codes, confidence, limits=limits)
        for name, values, limits in (
            ("base", one, (0.0, 1.0)),
            ("variant", other, (0.0, 1.0)),
            ("delta", other - one, (-1.0, 1.0)),
        )
    ]


def _areas(
    sure: tuple[FloatArray, FloatArray],
    right: tuple[BoolArray, BoolArray],
    codes: IntArray,
    confidence: float,
) -> _Values:
    from scipy.stats import t

    n = len(codes)
    if not n:
        names = ("base", "variant", "delta")
        return [MetricValue(f"aurc_{name}", None, None, None, 0, "cluster-t") for name in names]
    (one, pull), (other, push) = (_area(c, ~r) for c, r in zip(sure, right, strict=True))
    found = []
    for name, value, influence, least in (
        ("base", one, pull, 0.0),
        ("variant", other, push, 0.0),
        ("delta", other - one, push - pull, -1.0),
    ):
        error, m = sandwich_error(influence / n, codes)
        bounds = Interval(float("nan"), float("nan"), "cluster-t")
        # Where nothing varies, nothing is known of the error.
        if m > 1 and error > 0:
            reach = float(t.ppf((1 + confidence) / 2, m - 1)) * error
            bounds = Interval(max(value - reach, least), min(value + reach, 1.0), "cluster-t")
        found.append(metric_value(f"aurc_{name}", value, bounds, n))
    return found


def _area(sure: FloatArray, wrong: BoolArray) -> tuple[float, FloatArray]:
    """Return the area under the risk-coverage curve, and n times each row's influence on it.

    With G(t) the share of answers at least as confident as t and R(t) the error rate among them,
    the area is the mean of R(cᵢ). A row moves it by its own R(cᵢ), and by (wrongᵢ − R(t)) / G(t)
    at each threshold t ≤ cᵢ that it is above.
    """
    n = len(sure)
    order = np.argsort(-sure, kind="stable")
    ordered = sure[order]
    # Answers that are equally confident share a level, the most confident level first.
    reached = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, n)
    sizes = np.diff(reached, prepend=0)
    risk = np.cumsum(wrong[order])[reached - 1] / reached
    area = float((risk * sizes).sum()) / n
    # Sums over the thresholds at or below each level, the least confident level last.
    share = sizes / reached
    weight = np.cumsum(share[::-1])[::-1]
    pulled = np.cumsum((share * risk)[::-1])[::-1]
    level = np.empty(n, dtype=np.int64)
    level[order] = np.repeat(np.arange(len(sizes)), sizes)
    return area, risk[level] - area + wrong * weight[level] - pulled[level]


def _calibration(
    sure: tuple[FloatArray, FloatArray],
    right: tuple[BoolArray, BoolArray],
    codes: IntArray,
    confidence: float,
    resamples: int,
    seed: int,
) -> _Values:
    n, m = len(codes), int(codes.max(initial=-1)) + 1
    columns = [np.bincount(codes, minlength=m)[:, None]]
    for c, r in zip(sure, right, strict=True):
        place = codes * BINS + np.minimum((c * BINS).astype(np.int64), BINS - 1)
        gaps = np.bincount(place, weights=c - r, minlength=m * BINS)
        columns.append(gaps.reshape(m, BINS))
    totals = np.concatenate(columns, axis=1).astype(np.float64)

    def error(sums: FloatArray, side: int) -> FloatArray:
        gaps = sums[:, 1 + side * BINS : 1 + (side + 1) * BINS]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.abs(gaps).sum(axis=1) / sums[:, 0], dtype=np.float64)

    statistics: dict[str, Callable[[FloatArray], FloatArray]] = {
        "base": lambda sums: error(sums, 0),
        "variant": lambda sums: error(sums, 1),
        "delta": lambda sums: error(sums, 1) - error(sums, 0),
    }
    found = []
    for name, statistic in statistics.items():
        bounds = bootstrap_interval(
            totals, statistic, confidence, resamples=resamples, seed=seed, biased=True
        )
        least = -1.0 if name == "delta" else 0.0
        bounds = replace(bounds, low=max(bounds.low, least), high=min(bounds.high, 1.0))
        value = float(statistic(totals.sum(axis=0)[None, :])[0])
        found.append(metric_value(f"ece_{name}", value, bounds, n))
    return found
