"""Where two free answers part, counted in tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .intervals import bootstrap_interval, cluster_totals
from .pairs import FloatArray, factorize
from .stability import MetricValue, mean_metric, metric_value


def first_divergence(
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """Measure how long the answers of baseline and variant are the same.

    Long free answers differ somewhere nearly always, so their divergence ratio says little.

    Args:
        before: Token ids of each answer of the baseline.
        after: The same of the variant.
        clusters: Instances with the same label are not independent, shape ``(n,)``.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples behind the first metric.
        seed: Seed of the bootstrap.

    Returns:
        ``first_divergence_token``, the median number of tokens before the first one that
        differs, among the answers that differ, with a bootstrap interval over clusters;
        ``common_prefix_share``, the mean of the tokens shared from the beginning over those of
        the longer answer, 1 where nothing differs, with a cluster-robust t interval. Answers
        without tokens on both sides are left out.

    Example:
        >>> values = first_divergence([[5, 6, 7], [5, 6]], [[5, 9, 7], [5, 6]], ["a", "b"])
        >>> values["first_divergence_token"].value, values["common_prefix_share"].n
        (1.0, 2)
    """
    shared: list[int] = []
    longest: list[int] = []
    labels: list[Hashable] = []
    for one, other, label in zip(before, after, clusters, strict=True):
        if not (one or other):
            continue
        pairs = enumerate(zip(one, other, strict=False))
        ends = min(len(one), len(other))
        shared.append(next((place for place, (a, b) in pairs if a != b), ends))
        longest.append(max(len(one), len(other)))
        labels.append(label)
    codes = factorize(np.fromiter(labels, dtype=object, count=len(labels)))
    prefix, whole = np.array(shared, dtype=np.float64), np.array(longest, dtype=np.float64)
    differs = prefix < whole
    return {
        metric.name: metric
        for metric in (
            _median(prefix[differs], codes[differs], confidence, resamples, seed),
            mean_metric(
                "common_prefix_share", prefix / whole, codes, confidence, limits=(0.0, 1.0)
            ),
        )
    }


def _median(
    values: FloatArray, codes: np.ndarray, confidence: float, resamples: int, seed: int
) -> MetricValue:
    name = "first_divergence_token"
    if not len(values):
        return MetricValue(name, None, None, None, 0, "bca-bootstrap")
    levels = np.unique(values)
    # The median follows from how often each value occurs, and counts are sums over clusters.
    totals = cluster_totals(codes, *(values == level for level in levels))

    def median(counts: FloatArray) -> FloatArray:
        below = counts.cumsum(axis=1)
        n = below[:, -1:]
        low = (below >= n / 2).argmax(axis=1)
        high = (below > n / 2).argmax(axis=1)
        middle = (levels[low] + levels[high]) / 2
        return np.asarray(np.where(n[:, 0] > 0, middle, np.nan), dtype=np.float64)

    bounds = bootstrap_interval(totals, median, confidence, resamples=resamples, seed=seed)
    return metric_value(name, float(median(totals.sum(axis=0)[None, :])[0]), bounds, len(values))
