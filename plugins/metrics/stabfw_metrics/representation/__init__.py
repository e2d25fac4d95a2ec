"""Metric `representation`: how the spectrum of visual features changes, and with it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stabfw.components import Metric, MetricConfig, MetricValue
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.components import LoadedModel, ModelInfo, Recording
    from stabfw.components.patch import Patch
    from stabfw.metrics import Pairs

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
        from stabfw_metrics.representation.comparison import compared

        return [value for site in SITES for value in compared(site, pairs)]


@hookimpl
def stabfw_register_metrics(register: Callable[[str, type[Metric[Any]]], None]) -> None:
    """Offer `representation`."""
    register("representation", Representation)
