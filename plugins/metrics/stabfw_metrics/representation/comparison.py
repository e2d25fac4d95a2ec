"""Recorded spectra of both sides, compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from stabfw.components import MetricValue
from stabfw.metrics import Interval, Pairs, auroc, mean_metric, metric_value

Column = NDArray[np.float64]


def compared(site: str, pairs: Pairs) -> Iterator[MetricValue]:
    """Compare both sides at one site, over the questions where both are known."""
    before, after = pairs.base.extras, pairs.variant.extras
    rows = pairs.valid & np.isfinite(before[f"{site}.ipr"]) & np.isfinite(after[f"{site}.ipr"])
    codes = pairs.cluster_codes[rows]

    def mean(name: str, values: Column, limits: tuple[float, float] | None) -> MetricValue:
        return mean_metric(f"{site}.{name}", values, codes, limits=limits)

    for name, limits, spread in (("ipr", (0.0, 1.0), (-1.0, 1.0)), ("effective_rank", None, None)):
        old, new = before[f"{site}.{name}"][rows], after[f"{site}.{name}"][rows]
        yield mean(f"{name}_base", old, limits)
        yield mean(f"{name}_variant", new, limits)
        yield mean(f"{name}_delta", new - old, spread)
    spectra = before[f"{site}.spectrum"][rows], after[f"{site}.spectrum"][rows]
    yield mean("spectral_distance", distance(*spectra), (0.0, 1.0))
    moved = np.abs(after[f"{site}.ipr"][rows] - before[f"{site}.ipr"][rows])
    area = auroc(f"{site}.ipr_change_flip_auroc", moved, pairs.changed[rows], codes)
    yield area
    yield _correlation(f"{site}.ipr_change_flip_correlation", area, moved, pairs.changed[rows])


def distance(before: Column, after: Column) -> Column:
    """Total variation of spectra, of shape (n, kept) each; what is not kept counts as one share."""
    kept = np.abs(before - after).sum(1)
    rest = np.abs(before.sum(1) - after.sum(1))
    moved: Column = (kept + rest) / 2
    return moved.clip(max=1)


def _correlation(
    name: str, area: MetricValue, score: Column, changed: NDArray[np.bool_]
) -> MetricValue:
    """Spearman's correlation of a score with a yes or no, as the AUROC tells it.

    With n₁ and n₀ rows of each kind it is √(n₁ n₀) (AUROC − ½) / σ, where σ is the standard
    deviation of the ranks: another scale for the same number and its interval.
    """
    from scipy.stats import rankdata

    spread = float(rankdata(score).std()) if len(score) else 0.0
    if area.value is None or spread == 0:
        return metric_value(name, float("nan"), Interval(0.0, 0.0, area.method), area.n)
    hits = int(np.count_nonzero(changed))
    scale = (hits * (len(changed) - hits)) ** 0.5 / spread
    value, low, high = (
        None if end is None else (end - 0.5) * scale for end in (area.value, area.low, area.high)
    )
    return MetricValue(name, value, low, high, area.n, area.method)
