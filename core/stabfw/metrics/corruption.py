"""What perturbations do to a variant, over their severities and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from .intervals import bootstrap_interval, mean_interval, mean_p_value, proportion_interval
from .pairs import FloatArray, IntArray, Pairs, factorize, locate
from .stability import Excess, MetricValue, mean_metric, metric_value


def corruption_errors(
    clean: Pairs,
    perturbed: Mapping[str, Sequence[Pairs]],
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """Compare the errors of variant and baseline over perturbations and their severities.

    The corruption error of a perturbation is the variant's error rate summed over severities,
    divided by the baseline's. The relative one does the same with what each side loses from
    clean to perturbed. Above 1, the variant is worse.

    Args:
        clean: Baseline and variant on clean inputs.
        perturbed: By perturbation, baseline and variant at each severity (and seed) of it.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        ``mce`` and ``rce``, the means over perturbations, and ``ce.NAME`` and ``rce.NAME`` of
        each one, with bootstrap intervals over clusters; ``n`` counts instances. None where the
        interval of the denominator covers 0: the baseline makes no error, or the perturbation
        does not harm it. A mean with such a member is None too.

    Source:
        Hendrycks and Dietterich, ICLR 2019, section 4.1, with the baseline in the place of
        AlexNet.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> def run(right):
        ...     ids = [str(i) for i in range(40)]
        ...     hits = [i < right for i in range(40)]
        ...     return Outcomes.from_columns(ids, answer=hits, correct=hits)
        >>> clean, noisy = pair(run(40), run(40)), pair(run(30), run(20))
        >>> corruption_errors(clean, {"noise": [noisy]})["mce"].value
        2.0
    """
    tables = [clean, *(pairs for members in perturbed.values() for pairs in members)]
    labels = factorize(np.concatenate([pairs.cluster for pairs in tables]))
    codes = np.split(labels, np.cumsum([len(pairs) for pairs in tables])[:-1])
    m = int(labels.max(initial=-1)) + 1
    totals = np.concatenate(
        [_totals(pairs, own, m) for pairs, own in zip(tables, codes, strict=True)], axis=1
    )
    places: dict[str, list[int]] = {}
    for name, members in perturbed.items():
        start = 1 + sum(map(len, places.values()))
        places[name] = list(range(start, start + len(members)))

    n = len({*np.concatenate([pairs.instance_id[pairs.valid] for pairs in tables]).tolist()})
    found: dict[str, MetricValue] = {}
    for mean, each, relative in (("mce", "ce", False), ("rce", "rce", True)):
        known = {
            kind: _denominator(tables, codes, places[kind], confidence, relative=relative) > 0
            for kind in perturbed
        }
        wanted = {mean: tuple(perturbed), **{f"{each}.{kind}": (kind,) for kind in perturbed}}
        for name, kinds in wanted.items():
            if not kinds or not all(known[kind] for kind in kinds):
                found[name] = MetricValue(name, None, None, None, n, "bca-bootstrap")
                continue
            statistic = partial(
                _mean_ratio, places=[places[kind] for kind in kinds], relative=relative
            )
            bounds = bootstrap_interval(
                totals, statistic, confidence, resamples=resamples, seed=seed
            )
            value = float(statistic(totals.sum(axis=0)[None, :])[0])
            found[name] = metric_value(name, value, bounds, n)
    return found


def mean_amplification(
    amplified: Mapping[str, Sequence[Excess]], confidence: float = 0.95
) -> dict[str, MetricValue]:
    """Average what perturbations add to the variant's excess over severities and perturbations.

    Every perturbation has the same weight, and in it every severity. The average is taken within
    each instance first, so that severities do not count as new instances.

    Args:
        amplified: By perturbation, `amplification_per_instance` at each severity (and seed) of
            it; at least one each.
        confidence: Two-sided coverage.

    Returns:
        ``amplification`` over all and ``amplification.NAME`` of each perturbation, with
        cluster-robust t intervals, and ``amplification_p`` and ``amplification_p.NAME``, the
        two-sided p-values of their being zero. Instances that are not known everywhere are left
        out.

    Example:
        >>> from stabfw.metrics import Excess
        >>> each = np.array([0.0, 1.0]), np.array([0.0, 0.5])
        >>> ids = np.array(["q1", "q2"], dtype=object)
        >>> noise = [Excess(ids, ids, value) for value in each]
        >>> mean_amplification({"noise": noise})["amplification"].value
        0.375
    """
    found: dict[str, MetricValue] = {}
    for suffix, kinds in (("", tuple(amplified)), *((f".{kind}", (kind,)) for kind in amplified)):
        members = [amplified[kind] for kind in kinds]
        shared = members[0][0]
        for other in (one for severities in members for one in severities):
            known = locate(shared.instance_id, other.instance_id) >= 0
            shared = Excess(shared.instance_id[known], shared.cluster[known], shared.value[known])
        mean = np.zeros(len(shared.value))
        for severities in members:
            for one in severities:
                own = one.value[locate(shared.instance_id, one.instance_id)]
                mean += own / len(severities) / len(members)
        codes = factorize(shared.cluster)
        name = f"amplification{suffix}"
        found[name] = mean_metric(name, mean, codes, confidence, limits=(-2.0, 2.0))
        p, p_name = mean_p_value(mean, codes), f"amplification_p{suffix}"
        found[p_name] = MetricValue(p_name, p, None, None, len(mean), "cluster-t")
    return found


def _mean_ratio(sums: FloatArray, places: Sequence[Sequence[int]], *, relative: bool) -> FloatArray:
    """Mean over perturbations of the variant's errors over the baseline's, shape ``(r,)``."""

    def rates(place: int) -> FloatArray:
        """Error rates of both sides, shape ``(r, 2)``."""
        return np.asarray(sums[:, 3 * place + 1 : 3 * place + 3] / sums[:, 3 * place, None])

    ratios = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for severities in places:
            both = np.sum([rates(place) for place in severities], axis=0)
            if relative:
                both = both - len(severities) * rates(0)
            ratios.append(both[:, 1] / both[:, 0])
    return np.asarray(np.mean(ratios, axis=0), dtype=np.float64)


def _totals(pairs: Pairs, codes: IntArray, m: int) -> FloatArray:
    """Valid rows and the errors of both sides in each cluster, shape ``(m, 3)``."""
    valid = pairs.valid
    columns = (valid, valid & ~pairs.base.correct, valid & ~pairs.variant.correct)
    return np.stack([np.bincount(codes, weights=c, minlength=m) for c in columns], axis=1)


def _denominator(
    tables: Sequence[Pairs],
    codes: Sequence[IntArray],
    places: Sequence[int],
    confidence: float,
    *,
    relative: bool,
) -> float:
    """Return the lower bound of the baseline's (added) errors under a perturbation."""
    wrong = [~tables[place].base.correct for place in places]
    valid = [tables[place].valid for place in places]
    errors = np.concatenate([w[v] for w, v in zip(wrong, valid, strict=True)])
    groups = np.concatenate([codes[p][v] for p, v in zip(places, valid, strict=True)])
    if not relative:
        return proportion_interval(errors, groups, confidence).low if len(errors) else 0.0
    clean = tables[0]
    if not len(errors) or not clean.valid.any():
        return 0.0
    before = ~clean.base.correct[clean.valid]
    wrong_rows = np.concatenate([errors, before])
    # The difference of two means, written as one mean over the rows of both.
    weight = np.repeat([1 / len(errors), -1 / len(before)], [len(errors), len(before)])
    center = np.repeat([errors.mean(), before.mean()], [len(errors), len(before)])
    influence = weight * (wrong_rows - center) * len(wrong_rows)
    difference = float(errors.mean() - before.mean())
    joined = np.concatenate([groups, codes[0][clean.valid]])
    return mean_interval(influence + difference, joined, confidence).low
