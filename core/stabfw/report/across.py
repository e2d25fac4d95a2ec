"""Numbers that only several comparisons together have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stabfw.metrics import (
    Excess,
    MetricValue,
    Pairs,
    accuracy_change_p,
    benjamini_hochberg,
    corruption_errors,
    holm,
    macro_average,
    mean_amplification,
    slice_contrasts,
)
from stabfw.metrics.confidence import BINS
from stabfw.metrics.several import SLICE_MIN_N
from stabfw.metrics.stability import NEAR_TIE_NATS
from stabfw.report.results import Comparison, Condition, Metrics, Role, Summary

THRESHOLDS = {
    "confidence": 0.95,
    "near_tie_nats": NEAR_TIE_NATS,
    "worst_slice_min_n": float(SLICE_MIN_N),
    "calibration_bins": float(BINS),
}

MACRO_BENCHMARK = "mean over benchmarks"
ALL_PERTURBATIONS = "all perturbations"

_AVERAGED = (
    *("divergence_ratio", "answer_kappa", "excess_divergence", "answer_jsd", "answer_kl"),
    "accuracy_base",
    "accuracy_variant",
    "accuracy_delta",
    "negative_flip_rate",
    "positive_flip_rate",
    "correct_loss_rate",
    "flips",
    "wrong_churn",
    *("excess_correct_loss", "excess_answer_jsd", "excess_answer_kl"),
    "ece_delta",
    "brier_delta",
    "aurc_delta",
)
_SLICE_RATES = ("divergence_ratio", "correct_loss_rate")

Clean = Callable[[Condition], Condition | None]


def corrected(
    comparisons: Sequence[Comparison], pairs: Mapping[Condition, Pairs]
) -> list[Comparison]:
    """Add p-values that allow for how many comparisons there are.

    Each stack gets `accuracy_delta_p`, `accuracy_delta_p_holm` (for the claim that this one
    changed) and `accuracy_delta_q` (for a first look at all of them), corrected over the stacks
    whose accuracy can be read. Each level of a slice gets a `…_q` of each rate. Controls are left
    out, since nothing is claimed of them.

    Args:
        comparisons: Those of one experiment.
        pairs: Their joined outcomes.

    Returns:
        The comparisons in their order.
    """
    stacks = [c for c in comparisons if c.condition.role is Role.STACK]
    readable = [c for c in stacks if c.label_preserved]
    tests = [accuracy_change_p(pairs[c.condition]) for c in readable]
    raw = [test.value for test in tests]
    added: dict[Condition, dict[str, MetricValue]] = {}
    rows = zip(readable, tests, holm(raw), benjamini_hochberg(raw), strict=True)
    for c, test, p_holm, q in rows:
        added[c.condition] = {
            test.name: test,
            f"{test.name}_holm": replace(
                test,
                name=f"{test.name}_holm",
                value=p_holm,
                method=f"{test.method}, Holm over {len(raw)}",
            ),
            "accuracy_delta_q": replace(
                test,
                name="accuracy_delta_q",
                value=q,
                method=f"{test.method}, BH over {len(raw)}, exploratory",
            ),
        }
    slices = _slice_q(stacks, pairs)
    return [
        replace(
            c,
            metrics={**c.metrics, **added.get(c.condition, {})},
            slices={
                name: {
                    level: {**values, **slices.get((c.condition, name, level), {})}
                    for level, values in levels.items()
                }
                for name, levels in c.slices.items()
            },
        )
        for c in comparisons
    ]


def summaries(
    comparisons: Sequence[Comparison],
    pairs: Mapping[Condition, Pairs],
    amplified: Mapping[Condition, Excess],
    corruptions: Mapping[Condition, str],
    clean: Clean,
) -> tuple[Summary, ...]:
    """Average over benchmarks and over perturbations.

    Args:
        comparisons: Those of one experiment.
        pairs: Their joined outcomes.
        amplified: What a perturbation adds to the excess of each instance, where that is known.
        corruptions: The kind of each perturbation, whatever its severity and seed.
        clean: The clean condition beside a perturbed one.
    """
    perturbed = _over_perturbations(comparisons, pairs, amplified, corruptions, clean)
    return (*_macro(comparisons), *_with_holm(perturbed))


def _slice_q(
    stacks: Sequence[Comparison], pairs: Mapping[Condition, Pairs]
) -> dict[tuple[Condition, str, str], dict[str, MetricValue]]:
    found: dict[tuple[Condition, str, str], dict[str, MetricValue]] = {}
    for rate in _SLICE_RATES:
        tests: dict[tuple[Condition, str, str], float | None] = {}
        for c in stacks:
            if c.label_preserved or rate == "divergence_ratio":
                contrasts = slice_contrasts(pairs[c.condition], rate)
                tests |= {(c.condition, *at): p for at, p in contrasts.items()}
        method = f"BH over {sum(p is not None for p in tests.values())}, exploratory"
        adjusted = benjamini_hochberg(list(tests.values()))
        of = {c.condition: c for c in stacks}
        for (condition, name, level), q in zip(tests, adjusted, strict=True):
            n = of[condition].slices[name][level][rate].n
            found.setdefault((condition, name, level), {})[f"{rate}_q"] = MetricValue(
                f"{rate}_q", q, None, None, n, method
            )
    return found


def _macro(comparisons: Sequence[Comparison]) -> list[Summary]:
    groups: dict[Condition, list[Comparison]] = {}
    for c in comparisons:
        groups.setdefault(replace(c.condition, benchmark=MACRO_BENCHMARK), []).append(c)
    found = []
    for condition, members in groups.items():
        if len(members) < 2:
            continue
        found.append(
            Summary(
                condition,
                tuple(c.condition.benchmark for c in members),
                metrics=_means([c.metrics for c in members]),
                floor=_means([c.floor for c in members]),
                self_floor=_means([c.self_floor for c in members]),
            )
        )
    return found


def _means(members: Sequence[Metrics]) -> dict[str, MetricValue]:
    return {
        name: macro_average([metrics[name] for metrics in members])
        for name in _AVERAGED
        if all(name in metrics for metrics in members)
    }


def _over_perturbations(
    comparisons: Sequence[Comparison],
    pairs: Mapping[Condition, Pairs],
    amplified: Mapping[Condition, Excess],
    corruptions: Mapping[Condition, str],
    clean: Clean,
) -> list[Summary]:
    """Errors against the baseline's, where gold holds, and how much is added to the excess."""
    beside: dict[Condition, Condition] = {}
    errors: dict[Condition, dict[str, list[Pairs]]] = {}
    added: dict[Condition, dict[str, list[Excess]]] = {}
    for c in comparisons:
        at = clean(c.condition)
        if at is None or at not in pairs:
            continue
        whole = replace(c.condition, perturbation=ALL_PERTURBATIONS, seed=0)
        beside[whole] = at
        kind = corruptions[c.condition]
        if c.label_preserved:
            errors.setdefault(whole, {}).setdefault(kind, []).append(pairs[c.condition])
        if c.condition in amplified:
            added.setdefault(whole, {}).setdefault(kind, []).append(amplified[c.condition])
    found = []
    for whole, at in beside.items():
        lost, more = errors.get(whole, {}), added.get(whole, {})
        metrics = corruption_errors(pairs[at], lost) if lost else {}
        metrics |= mean_amplification(more) if more else {}
        if metrics:
            found.append(Summary(whole, tuple({**lost, **more}), metrics))
    return found


def _with_holm(found: Sequence[Summary]) -> list[Summary]:
    """Add p-values for the claim that something is amplified, corrected over all stacks.

    Those of single perturbations are corrected over all perturbations and stacks. Controls are
    left out, since nothing is claimed of them.
    """
    name = "amplification_p"
    stacks = [s for s in found if s.condition.role is Role.STACK]
    added: dict[Condition, dict[str, MetricValue]] = {}
    for whole in (True, False):
        tests = [
            (s.condition, metric)
            for s in stacks
            for metric in s.metrics.values()
            if (metric.name == name if whole else metric.name.startswith(f"{name}."))
        ]
        adjusted = holm([metric.value for _, metric in tests])
        method = f"Holm over {sum(metric.value is not None for _, metric in tests)}"
        for (condition, metric), p in zip(tests, adjusted, strict=True):
            corrected_name = metric.name.replace(name, f"{name}_holm", 1)
            added.setdefault(condition, {})[corrected_name] = replace(
                metric, name=corrected_name, value=p, method=f"{metric.method}, {method}"
            )
    return [replace(s, metrics={**s.metrics, **added.get(s.condition, {})}) for s in found]
