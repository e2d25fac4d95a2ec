"""Metric `representation`: how the spectrum of visual features changes, and with it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from stabfw.components import Metric, MetricConfig, MetricValue
from stabfw.metrics import Interval, Pairs, auroc, mean_interval, metric_value
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stabfw.components import LoadedModel, ModelInfo, Recording
    from stabfw.components.patch import Patch

    Column = NDArray[np.float64]

#: Where features are looked at: what the language model receives, and what leaves its last layer.
SITES = ("llm_input", "last_layer")
#: How many of the largest shares of a spectrum are kept.
KEPT = 64


class RepresentationConfig(MetricConfig):
    """Config of `representation`; there is nothing to choose."""


class Representation(Metric[RepresentationConfig]):
    """Compares the singular-value spectra of a question's visual tokens on both sides.

    With the singular values s of the matrix whose rows are the visual tokens of all pictures of a
    question, not centred, p_j = s_j² / Σ s²: `ipr` is the inverse participation ratio Σ p_j² (1
    if one direction holds everything, 1 / r if r directions share it evenly), `effective_rank` is
    exp of the entropy of s_j / Σ s (Roy and Vetterli, EUSIPCO 2007), and `spectral_distance` is
    half the sum of |p_j before - p_j after|, the share of the energy that lies elsewhere in the
    spectrum; what is beyond the largest 64 p_j counts as one.

    Versions 1 and 2 of Sun et al. (arXiv 2503.06794) say that the change of the IPR correlates
    with consistency. Only their abstract was at hand: which features, which centring and over what
    they correlate is our choice. Here it is per question: `ipr_change_flip_auroc` is the chance
    that a changed answer has the larger |change of the IPR|, `ipr_change_flip_correlation` the same
    as Spearman's rank correlation.
    """

    config_cls: ClassVar[type[RepresentationConfig]] = RepresentationConfig

    def extras(self) -> Mapping[str, int]:
        """The spectrum at each site, and what the whole of it comes to."""
        counts = {"spectrum": KEPT, "energy": 1, "ipr": 1, "effective_rank": 1}
        return {f"{site}.{name}": count for site in SITES for name, count in counts.items()}

    def cannot_record(self, info: ModelInfo) -> str | None:
        """Any model that states its anatomy will do."""
        return None if info.has_anatomy else f"the parts of a {info.family} model are not known"

    def record(self, model: LoadedModel, patch: Patch) -> Recording:
        """Watch the visual tokens enter the first layer and leave the last one."""
        from stabfw_metrics.representation.method import record_spectra

        return record_spectra(model, SITES, KEPT, patch)

    def compute(self, pairs: Pairs) -> list[MetricValue]:
        """Compare both sides at each site, over the questions where both are known."""
        return [value for site in SITES for value in _at(site, pairs)]


def _at(site: str, pairs: Pairs) -> Iterator[MetricValue]:
    before, after = pairs.base.extras, pairs.variant.extras
    rows = pairs.valid & np.isfinite(before[f"{site}.ipr"]) & np.isfinite(after[f"{site}.ipr"])
    codes = pairs.cluster_codes[rows]

    def mean(name: str, values: Column, limits: tuple[float, float] | None) -> MetricValue:
        bounds = mean_interval(values, codes, limits=limits)
        estimate = float(values.mean()) if len(values) else float("nan")
        return metric_value(f"{site}.{name}", estimate, bounds, len(values))

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


@hookimpl
def stabfw_register_metrics(register: Callable[[str, type[Metric[Any]]], None]) -> None:
    """Offer `representation`."""
    register("representation", Representation)
