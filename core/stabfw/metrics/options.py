"""Drift before any answer changes: how the probabilities of the answer options move."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import mean_interval
from .pairs import FloatArray, IntArray, factorize
from .stability import MetricValue, metric_value

#: Probabilities below 1e-10 count as 1e-10, since a single 0 would make the divergence infinite.
MIN_LOGPROB = -10 * log(10)


def option_drift(
    before: Sequence[Sequence[float]] | FloatArray,
    after: Sequence[Sequence[float]] | FloatArray,
    clusters: Sequence[Hashable] | NDArray[Any],
    confidence: float = 0.95,
) -> dict[str, MetricValue]:
    """Compare the probabilities of the answer options under baseline and variant.

    Args:
        before: Natural log-probabilities of each instance's options under the baseline, or an
            array of shape ``(n, options)``. They are floored at `MIN_LOGPROB` and normalised.
        after: The same under the variant, in the same order.
        clusters: Instances with the same label are not independent, shape ``(n,)``.
        confidence: Two-sided coverage of the intervals.

    Returns:
        ``answer_kl``, the mean Kullback-Leibler divergence of the variant from the baseline
        (nats), and ``answer_jsd``, the mean Jensen-Shannon divergence (bits, within [0, 1], not
        its square root), with cluster-robust t intervals.

    Raises:
        ValueError: An instance has other options after than before, or none.

    Source:
        Lin, IEEE Transactions on Information Theory 37 (1991), for the Jensen-Shannon divergence.

    Example:
        >>> half, sure = [[-0.6931, -0.6931]], [[0.0, -50.0]]
        >>> values = option_drift(half * 2, sure * 2, ["a", "b"])
        >>> round(values["answer_jsd"].value, 3)
        0.311
    """
    p, owner = _probabilities(before)
    q, other = _probabilities(after)
    if len(before) != len(after) or not np.array_equal(owner, other):
        raise ValueError("an instance has other options after than before")
    n = len(before)
    middle = (p + q) / 2

    def mean_over_options(terms: FloatArray) -> FloatArray:
        # Rounding may leave a divergence just below zero.
        return np.maximum(np.bincount(owner, weights=terms, minlength=n), 0.0)

    kl = mean_over_options(p * np.log(p / q))
    jsd = mean_over_options(p * np.log2(p / middle) + q * np.log2(q / middle)) / 2
    codes = factorize(np.fromiter(clusters, dtype=object, count=n))
    return {
        name: metric_value(
            name,
            float(each.mean()) if n else float("nan"),
            mean_interval(each, codes, confidence, limits=(0.0, largest)),
            n,
        )
        for name, each, largest in (("answer_kl", kl, -MIN_LOGPROB), ("answer_jsd", jsd, 1.0))
    }


def _probabilities(
    rows: Sequence[Sequence[float]] | FloatArray,
) -> tuple[FloatArray, IntArray]:
    """Return the probabilities of all rows one after another, and the row of each."""
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        flat, sizes = rows.ravel(), np.full(len(rows), rows.shape[1])
    else:
        sizes = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=int(sizes.sum()))
    if not sizes.all():
        raise ValueError("an instance has no options")
    owner = np.repeat(np.arange(len(rows), dtype=np.int64), sizes)
    weights = np.exp(np.maximum(flat, MIN_LOGPROB))
    return weights / np.bincount(owner, weights=weights, minlength=len(rows))[owner], owner
