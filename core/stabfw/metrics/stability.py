"""Stability of a variant against its baseline, with an interval on every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabfw.components.metric import MetricValue as MetricValue

from .intervals import (
    Interval,
    bootstrap_interval,
    cluster_totals,
    mean_interval,
    paired_difference_interval,
    proportion_interval,
    sandwich_error,
)
from .pairs import (
    FLIP_CAUSES,
    BoolArray,
    FloatArray,
    IntArray,
    ObjectArray,
    Pairs,
    Side,
    factorize,
    locate,
)

METRICS = (
    "accuracy_base",
    "accuracy_variant",
    "accuracy_delta",
    "divergence_ratio",
    "negative_flip_rate",
    "positive_flip_rate",
    "negative_share",
    "correct_loss_rate",
    "flips",
    "wrong_churn",
    "mean_score_delta",
    "mcnemar_p",
    "error_consistency",
    "answer_kappa",
    "relative_nfr",
    "margin_flip_auroc",
    "invalid_rate_base",
    "invalid_rate_variant",
    "coverage",
    "near_tie_share",
    "near_tie_flip_share",
    "near_tie_divergence",
)

#: What can be counted for a variant and for a repeat of the baseline, and so in excess of it.
OUTCOMES = (
    "divergence",
    "correct_loss",
    "negative_flip",
    "positive_flip",
    "flips",
    "wrong_churn",
    "invalid",
)
#: What needs gold answers, and so says nothing where they may no longer hold.
NEED_GOLD = frozenset(
    {
        *("accuracy_base", "accuracy_variant", "accuracy_delta", "accuracy_did"),
        *("negative_flip_rate", "positive_flip_rate", "negative_share", "correct_loss_rate"),
        *("flips", "wrong_churn", "mean_score_delta", "mcnemar_p", "error_consistency"),
        *("relative_nfr", "compression_specific_failure_rate"),
        *("excess_correct_loss", "excess_negative_flip", "excess_positive_flip", "excess_flips"),
        "excess_wrong_churn",
        *("group_accuracy_base", "group_accuracy_delta", "group_correct_loss_rate"),
    }
)

_Statistic = Callable[[FloatArray], FloatArray]

# One bfloat16 step between 16 and 32, where top logits usually lie.
NEAR_TIE_NATS = 0.125
# More labels than letters: not a closed set, and chance agreement is nil anyway.
MAX_LABELS = 26
PARSER_ALARM_SHARE = 0.2


@dataclass(frozen=True)
class FlipCauses:
    """Why answers changed, in numbers of changed answers.

    Attributes:
        semantic: Understood on both sides, and different.
        format: Unparseable or empty on at least one side.
        truncation: Truncated on at least one side.
        error: One side ended in an error; such pairs enter no rate.
    """

    semantic: int = 0
    format: int = 0
    truncation: int = 0
    error: int = 0

    @property
    def total(self) -> int:
        """All changed answers."""
        return self.semantic + self.format + self.truncation + self.error

    @property
    def fix_the_parser_first(self) -> bool:
        """Whether format flips exceed 20 % of the changes that enter the rates."""
        return self.format > PARSER_ALARM_SHARE * (self.total - self.error)


@dataclass(frozen=True, eq=False)
class Excess:
    """A variant's effect beyond the noise floor, per instance.

    Attributes:
        instance_id: Shape ``(n,)``, sorted, unique.
        cluster: Shape ``(n,)``.
        value: Outcome against the variant minus its mean over the repeats, shape ``(n,)``,
            within [-1, 1].
    """

    instance_id: ObjectArray
    cluster: ObjectArray
    value: FloatArray


def stability_metrics(
    pairs: Pairs, confidence: float = 0.95, *, resamples: int = 1000, seed: int = 0
) -> dict[str, MetricValue]:
    """Compute every metric of a pair of cells, in the order of `METRICS`.

    Rates are taken over the valid pairs (both sides produced output), ``coverage`` over all
    planned instances. The definitions are those of `Counts`, and in addition:

    - ``mean_score_delta``: variant minus baseline score, where both are known.
    - ``mcnemar_p``: exact binomial test that as many answers were repaired as lost. It says
      whether the net change is zero, never whether it is small.
    - ``error_consistency``: Cohen's kappa over correctness; None if both sides are all right.
    - ``answer_kappa``: Cohen's kappa over parsed answers, both ok; None for more than 26 labels.
    - ``relative_nfr``: NFR / ((1 − baseline error rate) · variant error rate).
    - ``margin_flip_auroc``: how well a small baseline margin foretells a changed answer.
    - ``near_tie_share``: share of baseline margins within one bfloat16 step (0.125 nats).
    - ``near_tie_flip_share``: share of the changed answers that were such near ties.
    - ``near_tie_divergence``: share of the near ties whose answer changed.

    Args:
        pairs: The joined cells.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples behind the kappas and ``relative_nfr``.
        seed: Seed of the bootstrap.

    Returns:
        One value per name in `METRICS`.

    Source:
        Sun et al., EMNLP 2025 (arXiv 2503.06794) for the divergence ratio and negative flips;
        Yan et al., CVPR 2021 (relative NFR, section 3); Dutta et al., NeurIPS 2024 (flips);
        Geirhos et al., NeurIPS 2020 (error consistency, section 2); Obuchowski, Biometrics 53
        (1997) (clustered AUROC).

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> a = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
        >>> b = Outcomes.from_columns(["q1", "q2"], answer=["A", "C"], correct=[True, False])
        >>> stability_metrics(pair(a, b))["divergence_ratio"].value
        0.5
    """
    return _metrics(pairs, confidence, resamples, seed, repeated=False)


def noise_floor(
    repeats: Sequence[Pairs], confidence: float = 0.95, *, resamples: int = 1000, seed: int = 0
) -> dict[str, MetricValue]:
    """Measure what "no change" looks like: a baseline against its own repeats.

    All repeats enter one table. Rows of one instance share its cluster, and a proportion's
    effective sample size never exceeds the number of instances, so that repeats sharpen the
    estimate but never pass for new instances.

    Args:
        repeats: One `Pairs` of (baseline, baseline again) per repeat.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        The metrics of `stability_metrics` without ``mcnemar_p``, whose test needs independent
        rows; ``n`` counts rows, that is instances times repeats.

    Raises:
        ValueError: There is no repeat.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> run = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
        >>> noise_floor([pair(run, run), pair(run, run)])["divergence_ratio"].value
        0.0
    """
    metrics = _metrics(stacked(repeats), confidence, resamples, seed, repeated=True)
    del metrics["mcnemar_p"]
    return metrics


def excess_per_instance(
    pairs: Pairs, floor: Sequence[Pairs], *, outcome: str = "divergence"
) -> Excess:
    """Subtract each instance's own noise floor from the variant's outcome.

    Args:
        pairs: Baseline and variant.
        floor: The same baseline and its repeats.
        outcome: One of `OUTCOMES`: ``divergence`` (the answer changed), ``correct_loss`` (a
            correct answer was lost; only instances the baseline gets right), ``negative_flip``
            (the same of all instances), ``positive_flip``, ``flips``, ``wrong_churn``, or
            ``invalid`` (the variant's answer, or the repeat's, could not be read).

    Returns:
        One value per instance that is valid against the variant and against a repeat.

    Raises:
        ValueError: There is no repeat, or the outcome is unknown.
    """
    if not floor:
        raise ValueError("the excess over a noise floor needs at least one repeat")
    hit, among = _outcome(pairs, outcome)
    noise = np.zeros(len(pairs))
    runs = np.zeros(len(pairs), dtype=np.int64)
    for repeat in floor:
        again, known = _outcome(repeat, outcome)
        row = locate(pairs.instance_id, repeat.instance_id)
        here = np.flatnonzero(row >= 0)
        here = here[known[row[here]]]
        noise[here] += again[row[here]]
        runs[here] += 1
    keep = among & (runs > 0)
    return Excess(
        instance_id=pairs.instance_id[keep],
        cluster=pairs.cluster[keep],
        value=hit[keep] - noise[keep] / runs[keep],
    )


def excess_metrics(
    pairs: Pairs, floor: Sequence[Pairs], confidence: float = 0.95
) -> dict[str, MetricValue]:
    """Return what the variant adds to the run-to-run noise, paired per instance.

    Both losses of ``excess_correct_loss`` condition on the same baseline run, so its luck cancels.

    Args:
        pairs: Baseline and variant.
        floor: The same baseline and its repeats.
        confidence: Two-sided coverage.

    Returns:
        ``excess_<outcome>`` for each of `OUTCOMES`, with a cluster-robust t interval.

    Raises:
        ValueError: There is no repeat.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> run = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
        >>> excess_metrics(pair(run, run), [pair(run, run)])["excess_divergence"].value
        0.0
    """
    found = {}
    for outcome in OUTCOMES:
        excess = excess_per_instance(pairs, floor, outcome=outcome)
        name, codes = f"excess_{outcome}", factorize(excess.cluster)
        found[name] = mean_metric(name, excess.value, codes, confidence, limits=(-1.0, 1.0))
    return found


def amplification_per_instance(clean: Excess, perturbed: Excess) -> Excess:
    """Return how much a perturbation adds to the variant's excess, instance by instance.

    Args:
        clean: Excess on clean inputs, from `excess_per_instance`.
        perturbed: Excess on perturbed inputs, over its own noise floor.

    Returns:
        excess(perturbed) − excess(clean), within [-2, 2], of the instances present in both.
    """
    row = locate(clean.instance_id, perturbed.instance_id)
    found = row >= 0
    change = perturbed.value[row[found]] - clean.value[found]
    return Excess(clean.instance_id[found], clean.cluster[found], change)


def perturbation_amplification(amplified: Excess, confidence: float = 0.95) -> MetricValue:
    """Return the mean of what a perturbation adds to the variant's excess.

    Args:
        amplified: From `amplification_per_instance`.
        confidence: Two-sided coverage.
    """
    codes = factorize(amplified.cluster)
    limits = (-2.0, 2.0)
    name = "perturbation_amplification"
    return mean_metric(name, amplified.value, codes, confidence, limits=limits)


def accuracy_did(clean: Pairs, perturbed: Pairs, confidence: float = 0.95) -> MetricValue:
    """Return the difference in differences of accuracy.

    (variant − baseline) perturbed minus (variant − baseline) clean, over the instances valid in
    both; negative when the perturbation costs the variant more than the baseline.

    Args:
        clean: Baseline and variant on clean inputs.
        perturbed: Baseline and variant on perturbed inputs.
        confidence: Two-sided coverage.
    """
    before, after = _matched(clean, perturbed)
    change = _accuracy_change(perturbed)[after] - _accuracy_change(clean)[before]
    codes = clean.cluster_codes[before]
    return mean_metric("accuracy_did", change, codes, confidence, limits=(-2.0, 2.0))


def self_consistency(pairs: Pairs, confidence: float = 0.95) -> MetricValue:
    """Return the share of answers a model keeps when its input is perturbed.

    Args:
        pairs: Clean and perturbed answers of one model, joined with ``same_input=False``.
        confidence: Two-sided coverage.
    """
    same = ~pairs.changed[pairs.valid]
    return proportion_metric("self_consistency", same, pairs.cluster_codes[pairs.valid], confidence)


def compression_specific_failure_rate(
    clean: Pairs, perturbed: Pairs, confidence: float = 0.95
) -> MetricValue:
    """Return the share of instances only the variant fails once the input is perturbed.

    Among the instances that both sides get right clean: baseline still right, variant wrong.

    Args:
        clean: Baseline and variant on clean inputs.
        perturbed: Baseline and variant on perturbed inputs.
        confidence: Two-sided coverage.

    Source:
        CIRA 2026 (compression-specific failures).
    """
    before, after = _matched(clean, perturbed)
    solid = (clean.base.correct & clean.variant.correct)[before]
    failed = (perturbed.base.correct & ~perturbed.variant.correct)[after[solid]]
    codes = clean.cluster_codes[before[solid]]
    return proportion_metric("compression_specific_failure_rate", failed, codes, confidence)


def by_slice(
    pairs: Pairs,
    name: str,
    *,
    min_n: int = 30,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, MetricValue]]:
    """Compute the metrics of each level of a slice.

    Args:
        pairs: The joined cells.
        name: Which of ``pairs.slices``.
        min_n: Leave out levels with fewer valid pairs.
        confidence: Two-sided coverage of each interval; not corrected for many slices.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        Metrics by level, in alphabetical order; rows without a level are in none.

    Raises:
        KeyError: There is no such slice.
    """
    if name not in pairs.slices:
        raise KeyError(f"no slice {name!r}; the pairs have {sorted(pairs.slices)}")
    column = pairs.slices[name]
    found = {}
    for level in sorted({v for v in column.tolist() if v is not None}, key=str):
        part = pairs.select(np.asarray(column == level, dtype=np.bool_))
        if np.count_nonzero(part.valid) >= min_n:
            found[str(level)] = stability_metrics(part, confidence, resamples=resamples, seed=seed)
    return found


def flip_causes(pairs: Pairs) -> FlipCauses:
    """Count the changed answers by cause.

    Args:
        pairs: The joined cells.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> a = Outcomes.from_columns(["q1"], answer=["A"], correct=[True])
        >>> b = Outcomes.from_columns(
        ...     ["q1"], answer=[None], text=["?"], status=["invalid"], correct=[False])
        >>> flip_causes(pair(a, b)).fix_the_parser_first
        True
    """
    counts = {cause: int(np.count_nonzero(pairs.cause == cause)) for cause in FLIP_CAUSES}
    return FlipCauses(**counts)


def _metrics(
    pairs: Pairs, confidence: float, resamples: int, seed: int, *, repeated: bool
) -> dict[str, MetricValue]:
    valid = pairs.valid
    rows = np.flatnonzero(valid)
    codes = pairs.cluster_codes[rows]
    instances = factorize(pairs.instance_id) if repeated else None
    before, after = pairs.base.correct[rows], pairs.variant.correct[rows]
    changed = pairs.changed[rows]
    negative, positive = before & ~after, ~before & after
    found: list[MetricValue] = []

    def rate(name: str, hits: BoolArray, among: IntArray) -> None:
        distinct = None if instances is None else len(np.unique(instances[among]))
        clusters = pairs.cluster_codes[among]
        found.append(proportion_metric(name, hits, clusters, confidence, max_n=distinct))

    def resampled(name: str, totals: FloatArray, statistic: _Statistic, n: int) -> None:
        value = float(statistic(totals.sum(axis=0)[None, :])[0]) if n else float("nan")
        bounds = Interval(float("nan"), float("nan"), "bca-bootstrap")
        if isfinite(value):
            bounds = bootstrap_interval(
                totals, statistic, confidence, resamples=resamples, seed=seed
            )
        found.append(metric_value(name, value, bounds, n))

    rate("accuracy_base", before, rows)
    rate("accuracy_variant", after, rows)
    found.append(
        metric_value(
            "accuracy_delta",
            (int(np.count_nonzero(positive)) - int(np.count_nonzero(negative))) / max(len(rows), 1),
            paired_difference_interval(after, before, codes, confidence),
            len(rows),
        )
    )
    rate("divergence_ratio", changed, rows)
    rate("negative_flip_rate", negative, rows)
    rate("positive_flip_rate", positive, rows)
    rate("negative_share", negative[changed], rows[changed])
    rate("correct_loss_rate", negative[before], rows[before])
    rate("flips", negative | positive, rows)
    rate("wrong_churn", changed & ~before & ~after, rows)
    found.append(_score_delta(pairs.base.score[rows], pairs.variant.score[rows], codes, confidence))
    found.append(_mcnemar(negative, positive))
    flags = cluster_totals(codes, np.ones(len(rows)), before, after, before & after)
    resampled("error_consistency", flags, _correctness_kappa, len(rows))
    both_ok = (pairs.base.ok & pairs.variant.ok)[rows]
    labels = _label_totals(pairs.base, pairs.variant, rows[both_ok], codes[both_ok])
    resampled("answer_kappa", labels, _label_kappa, int(both_ok.sum()) if labels.size else 0)
    resampled("relative_nfr", flags, _relative_nfr, len(rows))
    margin = pairs.base.margin[rows]
    known = np.isfinite(margin)
    found.append(
        auroc("margin_flip_auroc", -margin[known], changed[known], codes[known], confidence)
    )
    rate("invalid_rate_base", ~pairs.base.ok[rows], rows)
    rate("invalid_rate_variant", ~pairs.variant.ok[rows], rows)
    rate("coverage", valid, np.arange(len(pairs)))
    near = margin <= NEAR_TIE_NATS
    rate("near_tie_share", near[known], rows[known])
    rate("near_tie_flip_share", near[known & changed], rows[known & changed])
    rate("near_tie_divergence", changed[near], rows[near])
    return {metric.name: metric for metric in found}


def metric_value(name: str, value: float, bounds: Interval, n: int) -> MetricValue:
    """Build a metric, turning what is undefined into None."""
    if n == 0 or not isfinite(value):
        return MetricValue(name, None, None, None, n, bounds.method)
    low = bounds.low if isfinite(bounds.low) else None
    high = bounds.high if isfinite(bounds.high) else None
    return MetricValue(name, value, low, high, n, bounds.method)


def proportion_metric(
    name: str,
    hits: BoolArray,
    clusters: NDArray[Any],
    confidence: float = 0.95,
    *,
    max_n: int | None = None,
) -> MetricValue:
    """Tell the share of rows that were hit, with `proportion_interval`; None without rows.

    Args:
        name: What it measures.
        hits: Shape ``(n,)``.
        clusters: Labels, shape ``(n,)``; rows with the same one are not independent.
        confidence: Two-sided coverage.
        max_n: Cap on the effective sample size, for rows that repeat the same instances.
    """
    n = len(hits)
    bounds = proportion_interval(hits, clusters, confidence, max_n=max_n)
    return metric_value(name, int(np.count_nonzero(hits)) / max(n, 1), bounds, n)


def mean_metric(
    name: str,
    values: FloatArray,
    clusters: NDArray[Any],
    confidence: float = 0.95,
    *,
    limits: tuple[float, float] | None = None,
) -> MetricValue:
    """Tell the mean of some rows, with `mean_interval`; None without rows.

    Args:
        name: What it measures.
        values: Shape ``(n,)``, finite.
        clusters: Labels, shape ``(n,)``; rows with the same one are not independent.
        confidence: Two-sided coverage.
        limits: Smallest and largest possible value.
    """
    value = float(values.mean()) if len(values) else float("nan")
    bounds = mean_interval(values, clusters, confidence, limits=limits)
    return metric_value(name, value, bounds, len(values))


def auroc(
    name: str,
    score: FloatArray,
    positive: BoolArray,
    clusters: NDArray[Any],
    confidence: float = 0.95,
) -> MetricValue:
    """Tell how well a score picks out some rows: the area under the ROC curve.

    Args:
        name: What it measures.
        score: Finite numbers, shape ``(n,)``; higher ones speak for a positive row.
        positive: The rows to be picked out, shape ``(n,)``.
        clusters: Labels, shape ``(n,)``; rows with the same one are not independent.
        confidence: Two-sided coverage.

    Returns:
        The chance that a positive row scores higher than another one, ties half, with a t interval
        of its clustered variance on the logit scale. None without both kinds of rows; no interval
        where nothing varies, or where all rows of a kind are in one cluster.

    Source:
        Obuchowski, Biometrics 53 (1997).

    Example:
        >>> score, positive = np.array([0.1, 0.2, 0.3]), np.array([False, True, True])
        >>> auroc("auroc", score, positive, np.arange(3)).value
        1.0
    """
    from scipy.stats import rankdata, t

    method = "clustered-auroc"
    n, n_pos = len(score), int(np.count_nonzero(positive))
    n_neg = n - n_pos
    if n_pos == 0 or n_neg == 0:
        return MetricValue(name, None, None, None, n, method)
    ranks = rankdata(score)
    # Share of the other class that each row outranks, ties half.
    wins = np.empty(n)
    wins[positive] = (ranks[positive] - rankdata(score[positive])) / n_neg
    wins[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / n_pos
    area = float(wins[positive].mean())
    influence = (wins - area) / np.where(positive, n_pos, n_neg)
    codes = factorize(clusters)
    error, _ = sandwich_error(influence, codes)
    # Few rows of one kind carry most of the error, and tell little of their own spread.
    m = min(len(np.unique(codes[positive])), len(np.unique(codes[~positive])))
    if m < 2 or error == 0 or not 0 < area < 1:
        return MetricValue(name, area, None, None, n, method)
    reach = float(t.ppf((1 + confidence) / 2, m - 1)) * error / (area * (1 - area))
    center = log(area / (1 - area))
    low, high = (1 / (1 + exp(-min(max(x, -700), 700))) for x in (center - reach, center + reach))
    return MetricValue(name, area, min(low, area), max(high, area), n, method)


def _score_delta(
    before: FloatArray, after: FloatArray, codes: IntArray, confidence: float
) -> MetricValue:
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return MetricValue("mean_score_delta", None, None, None, 0, "cluster-t")
    before, after = before[known], after[known]
    # Only scores known to be shares bound their own difference.
    unit = min(before.min(), after.min()) >= 0 and max(before.max(), after.max()) <= 1
    change = after - before
    limits = (-1.0, 1.0) if unit else None
    return mean_metric("mean_score_delta", change, codes[known], confidence, limits=limits)


def _mcnemar(negative: BoolArray, positive: BoolArray) -> MetricValue:
    from scipy.stats import binomtest

    lost, repaired = int(np.count_nonzero(negative)), int(np.count_nonzero(positive))
    discordant = lost + repaired
    p = float(binomtest(lost, discordant).pvalue) if discordant else 1.0
    value = p if len(negative) else None
    return MetricValue("mcnemar_p", value, None, None, discordant, "exact-binomial")


def _correctness_kappa(sums: FloatArray) -> FloatArray:
    """Kappa from columns n, baseline correct, variant correct, both correct."""
    n, before, after, both = sums.T
    agree = n - before - after + 2 * both
    chance = before * after + (n - before) * (n - after)
    return _kappa(n, agree, chance)


def _label_kappa(sums: FloatArray) -> FloatArray:
    """Kappa from columns n, agreements, baseline label counts, variant label counts."""
    n, agree = sums[:, 0], sums[:, 1]
    before, after = np.split(sums[:, 2:], 2, axis=1)
    return _kappa(n, agree, (before * after).sum(axis=1))


def _kappa(n: FloatArray, agree: FloatArray, chance: FloatArray) -> FloatArray:
    """Return kappa from integer sums, so that "no chance left" is exact; NaN there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (n * agree - chance) / (n * n - chance)
    return np.where(n * n > chance, kappa, np.nan)


def _label_totals(base: Side, variant: Side, rows: IntArray, codes: IntArray) -> FloatArray:
    """Sum agreements and label counts within clusters; empty if the labels are no closed set."""
    nothing = np.zeros((0, 4))
    if len(rows) == 0:
        return nothing
    try:
        labels = factorize(np.concatenate([base.answer[rows], variant.answer[rows]]))
    except TypeError:
        return nothing
    k = int(labels.max()) + 1
    if k > MAX_LABELS:
        return nothing
    first, second = np.split(labels, 2)
    columns = [np.ones(len(rows)), first == second]
    columns += [first == label for label in range(k)]
    columns += [second == label for label in range(k)]
    return cluster_totals(codes, *columns)


def _relative_nfr(sums: FloatArray) -> FloatArray:
    """Return NFR / (baseline accuracy · variant error rate); NaN where that product is 0."""
    n, before, after, both = sums.T
    product = before * (n - after)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (before - both) * n / product
    return np.where(product > 0, ratio, np.nan)


def _outcome(pairs: Pairs, outcome: str) -> tuple[BoolArray, BoolArray]:
    """Return the outcome of each row and the rows it is defined for."""
    before, after = pairs.base.correct, pairs.variant.correct
    valid = pairs.valid
    match outcome:
        case "divergence":
            return pairs.changed, valid
        case "correct_loss":
            return before & ~after, valid & before
        case "negative_flip":
            return before & ~after, valid
        case "positive_flip":
            return ~before & after, valid
        case "flips":
            return before != after, valid
        case "wrong_churn":
            return pairs.changed & ~before & ~after, valid
        case "invalid":
            return ~pairs.variant.ok, valid
    raise ValueError(f"unknown outcome {outcome!r}; use one of {OUTCOMES}")


def _accuracy_change(pairs: Pairs) -> FloatArray:
    return pairs.variant.correct.astype(np.float64) - pairs.base.correct


def _matched(clean: Pairs, perturbed: Pairs) -> tuple[IntArray, IntArray]:
    """Return the rows of the instances valid in both, in the order of the first."""
    row = locate(clean.instance_id, perturbed.instance_id)
    before = np.flatnonzero((row >= 0) & clean.valid)
    before = before[perturbed.valid[row[before]]]
    return before, row[before]


def stacked(repeats: Sequence[Pairs]) -> Pairs:
    """Put repeats below each other: one row per instance and repeat.

    Raises:
        ValueError: There is no repeat.
    """
    if not repeats:
        raise ValueError("a noise floor needs at least one repeat")

    def sides(parts: Sequence[Side]) -> Side:
        return Side(
            answer=np.concatenate([p.answer for p in parts]),
            text=np.concatenate([p.text for p in parts]),
            status=np.concatenate([p.status for p in parts]),
            correct=np.concatenate([p.correct for p in parts]),
            score=np.concatenate([p.score for p in parts]),
            margin=np.concatenate([p.margin for p in parts]),
        )

    return Pairs(
        instance_id=np.concatenate([p.instance_id for p in repeats]),
        cluster=np.concatenate([p.cluster for p in repeats]),
        base=sides([p.base for p in repeats]),
        variant=sides([p.variant for p in repeats]),
    )
