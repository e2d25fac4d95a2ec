"""Drift before any answer changes: how the probabilities of the answer options move."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from math import log
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .pairs import FloatArray, IntArray, factorize
from .stability import MetricValue, mean_metric

#: A row of log-probabilities for each instance.
_Rows: TypeAlias = Sequence[Sequence[float]] | FloatArray

#: Probabilities below 1e-10 count as 1e-10, since a single 0 would make the divergence infinite.
MIN_LOGPROB = -10 * log(10)
#: How large each divergence can be.
_LARGEST = {"answer_kl": -MIN_LOGPROB, "answer_jsd": 1.0}


def option_drift(
    before: _Rows,
    after: _Rows,
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
    moved = _divergences(before, after)
    codes = _codes(clusters, len(before))
    return {
        name: mean_metric(name, moved[name], codes, confidence, limits=(0.0, largest))
        for name, largest in _LARGEST.items()
    }


def excess_option_drift(
    before: _Rows,
    after: _Rows,
    again: Sequence[Sequence[Sequence[float] | None] | FloatArray],
    clusters: Sequence[Hashable] | NDArray[Any],
    confidence: float = 0.95,
) -> dict[str, MetricValue]:
    """Return how far the options moved beyond the run-to-run noise, paired per instance.

    Args:
        before: Natural log-probabilities of each instance's options under the baseline, as for
            `option_drift`.
        after: The same under the variant.
        again: The same under each repeat of the baseline; None where a repeat has none.
        clusters: Instances with the same label are not independent, shape ``(n,)``.
        confidence: Two-sided coverage of the intervals.

    Returns:
        ``excess_answer_kl`` (nats) and ``excess_answer_jsd`` (bits): the divergence of the variant
        from the baseline minus the mean of the repeats', over the instances that some repeat has,
        with cluster-robust t intervals.

    Raises:
        ValueError: There is no repeat, or an instance has other options than before, or none.

    Example:
        >>> half, sure = [[-0.6931, -0.6931]], [[0.0, -50.0]]
        >>> values = excess_option_drift(half * 2, sure * 2, [half * 2, sure * 2], ["a", "b"])
        >>> round(values["excess_answer_jsd"].value, 3)
        0.156
    """
    if not again:
        raise ValueError("the excess over a noise floor needs at least one repeat")
    moved, n = _divergences(before, after), len(before)
    noise = {name: np.zeros(n) for name in moved}
    runs = np.zeros(n, dtype=np.int64)
    for repeat in again:
        here = [i for i, row in enumerate(repeat) if row is not None]
        for name, each in _divergences(_rows(before, here), _rows(repeat, here)).items():
            noise[name][here] += each
        runs[here] += 1
    keep = runs > 0
    codes = _codes(clusters, n)[keep]
    return {
        f"excess_{name}": mean_metric(
            f"excess_{name}",
            moved[name][keep] - noise[name][keep] / runs[keep],
            codes,
            confidence,
            limits=(-largest, largest),
        )
        for name, largest in _LARGEST.items()
    }


def _divergences(before: _Rows, after: _Rows) -> dict[str, FloatArray]:
    """Return both divergences of each instance, by the name of their mean."""
    p, owner = _probabilities(before)
    q, other = _probabilities(after)
    if len(before) != len(after) or not np.array_equal(owner, other):
        raise ValueError("an instance has other options after than before")
    n = len(before)
    middle = (p + q) / 2

    def over_options(terms: FloatArray) -> FloatArray:
        # Rounding may leave a divergence just below zero.
        return np.maximum(np.bincount(owner, weights=terms, minlength=n), 0.0)

    return {
        "answer_kl": over_options(p * np.log(p / q)),
        "answer_jsd": over_options(p * np.log2(p / middle) + q * np.log2(q / middle)) / 2,
    }


def _rows(rows: Sequence[Sequence[float] | None] | FloatArray, here: list[int]) -> _Rows:
    """Return some of the rows; those of an array stay one, which is much faster."""
    if isinstance(rows, np.ndarray):
        return rows[here]
    return [row for i in here if (row := rows[i]) is not None]


def _codes(clusters: Sequence[Hashable] | NDArray[Any], n: int) -> IntArray:
    return factorize(np.fromiter(clusters, dtype=object, count=n))


def _probabilities(rows: _Rows) -> tuple[FloatArray, IntArray]:
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
