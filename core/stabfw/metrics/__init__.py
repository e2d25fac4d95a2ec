"""Turn the outcomes of two cells into stability numbers.

Everything here is a pure function of NumPy arrays. Join two tables with `pair`, then ask for
`stability_metrics`; the noise floor and what lies beyond it build on the same pairs. Names are
loaded on first use, so importing this package costs nothing.

Example:
    >>> from stabfw.metrics import Outcomes, pair, stability_metrics
    >>> base = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
    >>> fast = Outcomes.from_columns(["q2", "q1"], answer=["C", "A"], correct=[False, True])
    >>> stability_metrics(pair(base, fast))["negative_flip_rate"].value
    0.5
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .confidence import confidence_metrics as confidence_metrics
    from .corruption import corruption_errors as corruption_errors
    from .corruption import mean_amplification as mean_amplification
    from .counts import Counts as Counts
    from .divergence import first_divergence as first_divergence
    from .foresight import FORESIGHT as FORESIGHT
    from .foresight import ForesightRule as ForesightRule
    from .foresight import foresee as foresee
    from .gates import Estimate as Estimate
    from .gates import Verdict as Verdict
    from .gates import combined as combined
    from .gates import decide as decide
    from .gates import floor_estimate as floor_estimate
    from .gates import gate_estimate as gate_estimate
    from .gates import harms as harms
    from .groups import by_group as by_group
    from .groups import group_floor as group_floor
    from .groups import group_metrics as group_metrics
    from .intervals import Interval as Interval
    from .intervals import bootstrap_interval as bootstrap_interval
    from .intervals import clopper_pearson as clopper_pearson
    from .intervals import design_effect as design_effect
    from .intervals import effective_size as effective_size
    from .intervals import korn_graubard as korn_graubard
    from .intervals import mean_interval as mean_interval
    from .intervals import mean_p_value as mean_p_value
    from .intervals import newcombe_paired as newcombe_paired
    from .intervals import paired_difference_interval as paired_difference_interval
    from .intervals import proportion_interval as proportion_interval
    from .intervals import sandwich_error as sandwich_error
    from .intervals import wilson as wilson
    from .likelihood import loglik_delta as loglik_delta
    from .options import excess_option_drift as excess_option_drift
    from .options import option_drift as option_drift
    from .pairs import Outcomes as Outcomes
    from .pairs import PairingError as PairingError
    from .pairs import Pairs as Pairs
    from .pairs import Side as Side
    from .pairs import pair as pair
    from .several import WorstSlice as WorstSlice
    from .several import accuracy_change_p as accuracy_change_p
    from .several import benjamini_hochberg as benjamini_hochberg
    from .several import holm as holm
    from .several import macro_average as macro_average
    from .several import slice_contrasts as slice_contrasts
    from .several import worst_slice as worst_slice
    from .sizing import largest_passing as largest_passing
    from .sizing import power as power
    from .sizing import sample_size as sample_size
    from .stability import METRICS as METRICS
    from .stability import NEED_GOLD as NEED_GOLD
    from .stability import Excess as Excess
    from .stability import FlipCauses as FlipCauses
    from .stability import MetricValue as MetricValue
    from .stability import accuracy_did as accuracy_did
    from .stability import amplification_per_instance as amplification_per_instance
    from .stability import auroc as auroc
    from .stability import by_slice as by_slice
    from .stability import compression_specific_failure_rate as compression_specific_failure_rate
    from .stability import excess_metrics as excess_metrics
    from .stability import excess_per_instance as excess_per_instance
    from .stability import flip_causes as flip_causes
    from .stability import mean_metric as mean_metric
    from .stability import metric_value as metric_value
    from .stability import noise_floor as noise_floor
    from .stability import perturbation_amplification as perturbation_amplification
    from .stability import proportion_metric as proportion_metric
    from .stability import self_consistency as self_consistency
    from .stability import stability_metrics as stability_metrics

_HOME = {
    "pairs": ("Outcomes", "PairingError", "Pairs", "Side", "pair"),
    "counts": ("Counts",),
    "foresight": ("FORESIGHT", "ForesightRule", "foresee"),
    "gates": (
        "Estimate",
        "Verdict",
        "combined",
        "decide",
        "floor_estimate",
        "gate_estimate",
        "harms",
    ),
    "groups": ("by_group", "group_floor", "group_metrics"),
    "intervals": (
        "Interval",
        "bootstrap_interval",
        "clopper_pearson",
        "design_effect",
        "effective_size",
        "korn_graubard",
        "mean_interval",
        "mean_p_value",
        "newcombe_paired",
        "paired_difference_interval",
        "proportion_interval",
        "sandwich_error",
        "wilson",
    ),
    "options": ("excess_option_drift", "option_drift"),
    "confidence": ("confidence_metrics",),
    "corruption": ("corruption_errors", "mean_amplification"),
    "several": (
        "WorstSlice",
        "accuracy_change_p",
        "benjamini_hochberg",
        "holm",
        "macro_average",
        "slice_contrasts",
        "worst_slice",
    ),
    "divergence": ("first_divergence",),
    "likelihood": ("loglik_delta",),
    "sizing": ("largest_passing", "power", "sample_size"),
    "stability": (
        "METRICS",
        "NEED_GOLD",
        "Excess",
        "FlipCauses",
        "MetricValue",
        "accuracy_did",
        "amplification_per_instance",
        "auroc",
        "by_slice",
        "compression_specific_failure_rate",
        "excess_metrics",
        "excess_per_instance",
        "flip_causes",
        "mean_metric",
        "metric_value",
        "noise_floor",
        "perturbation_amplification",
        "proportion_metric",
        "self_consistency",
        "stability_metrics",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_MODULE_OF))
