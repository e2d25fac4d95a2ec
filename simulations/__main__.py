"""Simulate gates and intervals on drawn outcomes, and print the tables of docs/statistics.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray
from stabfw.metrics import (
    ForesightRule,
    MetricValue,
    Outcomes,
    Pairs,
    confidence_metrics,
    corruption_errors,
    excess_metrics,
    excess_option_drift,
    foresee,
    gate_estimate,
    macro_average,
    noise_floor,
    option_drift,
    pair,
    proportion_interval,
    stability_metrics,
    worst_slice,
)
from stabfw.metrics.several import contrast_p

Floats = NDArray[np.float64]
Rng = np.random.Generator
#: Images of five questions each, and how alike the fates of questions on one image are.
CLUSTERED = ((100, 0.0), (100, 0.3), (400, 0.1), (400, 0.3))
LIMIT = 0.01
MEAN_MARGIN = 2.0


def main() -> None:
    """Run every simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="of each gate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.trials} trials, seed {options.seed}; ± is twice the simulation's own error\n")
    gates(options.trials, options.seed)
    proportions(options.trials // 2, options.seed)
    metrics(options.trials // 4, options.seed)
    searches(options.trials // 2, options.seed)
    foresight(options.trials // 2, options.seed)


def gates(trials: int, seed: int) -> None:
    """How often a stack passes whose true loss of right answers is exactly the limit."""
    print("| images × questions | ICC | one-sided 95 % | point estimate |")
    print("|---|---|---|---|")
    for images, each, icc in (
        *((n, 1, 0.0) for n in (500, 1000, 2000)),
        *((m, 5, icc) for m, icc in CLUSTERED),
        *((160, 5, 0.5), (1000, 5, 0.3), (300, 10, 0.3)),
    ):
        rng = np.random.default_rng(seed)
        passed = naive = 0
        for _ in range(trials):
            lost = alike(rng, images, each, LIMIT, icc)
            found = gate_estimate("correct_loss_rate", lost_answers(lost, each))
            passed += found.high < LIMIT
            naive += lost.mean() < LIMIT
        print(f"| {images} × {each} | {icc:g} | {share(passed, trials)} | {naive / trials:.1%} |")
    print()


def proportions(trials: int, seed: int) -> None:
    """How often intervals of a loss rate contain the truth."""
    print("| images × questions | ICC | loss | two-sided 95 % | upper bound 95 % |")
    print("|---|---|---|---|---|")
    for images, each, icc in ((300, 1, 0.0), (2000, 1, 0.0), *((m, 5, i) for m, i in CLUSTERED)):
        for loss in (0.02, 0.1):
            rng = np.random.default_rng(seed)
            within = below = 0
            for _ in range(trials):
                lost = alike(rng, images, each, loss, icc)
                codes = np.repeat(np.arange(images), each)
                bounds = proportion_interval(lost, codes)
                within += bounds.low <= loss <= bounds.high
                below += loss <= proportion_interval(lost, codes, 0.90, exact=True).high
            print(
                f"| {images} × {each} | {icc:g} | {loss:g} | {share(within, trials)} "
                f"| {share(below, trials)} |"
            )
    print()


def metrics(trials: int, seed: int) -> None:
    """How often the intervals of all other metrics contain the truth."""
    print("| metric | 300 images × 1 | 100 images × 3 | 300 images × 3 |")
    print("|---|---|---|---|")
    columns = [_coverage(trials, seed, *sizes) for sizes in ((300, 1), (100, 3), (300, 3))]
    for name in columns[0]:
        print(f"| `{name}` | {' | '.join(column[name] for column in columns)} |")
    print()


def searches(trials: int, seed: int) -> None:
    """How often a slice is called worse, or all slices, where none is."""
    print("| images × questions | ICC | worst slice, Holm 5 % | its interval | one contrast 5 % |")
    print("|---|---|---|---|---|")
    for images, each, icc in ((600, 1, 0.0), (200, 3, 0.0), (200, 3, 0.3)):
        rng = np.random.default_rng(seed)
        called = outside = alone = 0
        for _ in range(trials):
            lost = alike(rng, images, each, 0.05, icc)
            levels = rng.integers(0, 10, images * each).astype(str)
            pairs = lost_answers(lost, each, {"kind": levels.tolist()})
            found = worst_slice(pairs)
            assert found is not None
            called += found.p_holm is not None and found.p_holm < 0.05
            low, high = found.rate.low, found.rate.high
            assert low is not None
            assert high is not None
            outside += not low <= 0.05 <= high
            p = contrast_p(lost, levels == "0", np.repeat(np.arange(images), each))
            alone += p is not None and p < 0.05
        print(
            f"| {images} × {each} | {icc:g} | {share(called, trials)} "
            f"| {share(trials - outside, trials)} | {share(alone, trials)} |"
        )
    print()


def foresight(trials: int, seed: int) -> None:
    """How often more answers change from a certified margin on than it allows."""
    print("| images × questions | ICC | changes | certified | too many change | covered |")
    print("|---|---|---|---|---|---|")
    rule = ForesightRule()
    for images, each, icc in (
        *((n, 1, 0.0) for n in (1000, 4000)),
        *((m, 5, icc) for m in (400, 1000) for icc in (0.0, 0.3)),
    ):
        for told, steepness in (("rarer with a margin", 2.0), ("as often at any", 0.0)):
            rng = np.random.default_rng(seed)
            above, covered = 0, []
            for _ in range(trials):
                pairs, rate = _hesitant(rng, images, each, icc, steepness, rule.at_most)
                threshold = foresee(pairs, rule)["foresight_threshold"].value
                if threshold is not None:
                    above += rate(threshold) >= rule.at_most
                    covered.append(exp(-threshold / MEAN_MARGIN))
            mean = f"{np.mean(covered):.0%}" if covered else "–"
            print(
                f"| {images} × {each} | {icc:g} | {told} | {len(covered) / trials:.1%} "
                f"| {share(above, trials)} | {mean} |"
            )
    print()


def _hesitant(
    rng: Rng, images: int, each: int, icc: float, steepness: float, limit: float
) -> tuple[Pairs, Callable[[float], float]]:
    """Draw answers that change by their margin, and tell how often from a given one on.

    Margins are exponential. An answer changes with a chance that falls exponentially with them,
    to four times the limit over all answers, or is the limit at any. On a share `icc` of the
    images one draw decides all questions.
    """
    n = images * each
    margin = rng.exponential(MEAN_MARGIN, n)
    steps = 1 + MEAN_MARGIN * steepness
    overall = 4 * limit if steepness else limit
    alike = np.repeat(rng.random(images) < icc, each)
    chance = np.where(alike, np.repeat(rng.random(images), each), rng.random(n))
    changed = chance < overall * steps * np.exp(-steepness * margin)
    ids, cluster, right = np.arange(n), np.arange(n) // each, np.ones(n, dtype=np.bool_)
    base, variant = (
        Outcomes.from_columns(ids, answer=a, correct=a, cluster=cluster, margin=margin)
        for a in (right, ~changed)
    )
    return pair(base, variant), lambda threshold: overall * exp(-steepness * threshold)


def _coverage(trials: int, seed: int, images: int, each: int) -> dict[str, str]:
    """Coverage of each metric's interval, its truth taken from one very large draw."""
    truth = {k: v.value for k, v in _measured(np.random.default_rng(seed), 60_000, each, 0)}
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    rng = np.random.default_rng(seed + 1)
    for _ in range(trials):
        for name, metric in _measured(rng, images, each, 200):
            known = truth[name]
            if metric.low is not None and metric.high is not None and known is not None:
                hits[name].append(metric.low <= known <= metric.high)
    return {name: share(sum(found), len(found)) for name, found in hits.items()}


def _measured(
    rng: Rng, images: int, each: int, resamples: int
) -> Iterator[tuple[str, MetricValue]]:
    """Draw an experiment and yield what has an interval."""
    draw = _Experiment(rng, images, each)
    clean, noisy = draw.pairs(0.0), draw.pairs(0.8)
    jittered = [draw.jittered() for _ in range(3)]
    repeats = [draw.again(logits) for logits in jittered]
    found = dict(stability_metrics(clean, resamples=resamples))
    found |= excess_metrics(clean, repeats)
    floor = noise_floor(repeats, resamples=0)
    found |= {f"floor {name}": floor[name] for name in ("divergence_ratio", "correct_loss_rate")}
    found |= option_drift(draw.before, draw.after, draw.cluster)
    again = [_normalised(logits) for logits in jittered]
    found |= excess_option_drift(draw.before, draw.after, again, draw.cluster)
    sure, sure_after = (np.exp(side).max(axis=1) for side in (draw.before, draw.after))
    right, right_after = clean.base.correct, clean.variant.correct
    found |= confidence_metrics(
        sure, sure_after, right, right_after, draw.cluster, resamples=resamples
    )
    found |= corruption_errors(clean, {"noise": [noisy]}, resamples=resamples)
    other = stability_metrics(_Experiment(rng, images // 2, each).pairs(0.0), resamples=0)
    found["macro divergence_ratio"] = macro_average(
        [found["divergence_ratio"], other["divergence_ratio"]]
    )
    for name, metric in found.items():
        if name not in ("mcnemar_p", "coverage", "invalid_rate_base", "invalid_rate_variant"):
            if name.startswith(("ce.", "rce.")):
                continue
            yield name, metric


class _Experiment:
    """Questions whose difficulty is shared on an image, a baseline and a variant that drifted."""

    def __init__(self, rng: Rng, images: int, each: int) -> None:
        self.rng, n = rng, images * each
        self.cluster = np.repeat(np.arange(images), each).tolist()
        easy = np.repeat(rng.normal(1.0, 1.0, images), each)[:, None]
        self.gold = rng.integers(0, 4, n)
        self.one_hot = np.eye(4)[self.gold]
        self.logits = rng.normal(0, 1, (n, 4)) + self.one_hot * easy
        shaken = np.repeat(rng.normal(0, 0.35, (images, 4)), each, axis=0)
        self.drifted = self.logits + shaken + rng.normal(0, 0.35, (n, 4))
        self.before, self.after = _normalised(self.logits), _normalised(self.drifted)

    def pairs(self, noise: float) -> Pairs:
        """Baseline and variant, both with less of a signal."""
        return pair(
            self._table(self.logits - noise * self.one_hot),
            self._table(self.drifted - (noise + noise / 4) * self.one_hot),
        )

    def jittered(self) -> Floats:
        """The baseline's logits once more, in other company."""
        return self.logits + self.rng.normal(0, 0.05, self.logits.shape)

    def again(self, logits: Floats) -> Pairs:
        """The baseline, and once more."""
        return pair(self._table(self.logits), self._table(logits))

    def _table(self, logits: Floats) -> Outcomes:
        best = np.sort(logits, axis=1)
        answer = logits.argmax(axis=1)
        return Outcomes.from_columns(
            np.arange(len(answer)),
            answer=answer,
            correct=answer == self.gold,
            cluster=self.cluster,
            margin=best[:, -1] - best[:, -2],
        )


def _normalised(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def alike(rng: Rng, images: int, each: int, rate: float, icc: float) -> NDArray[np.bool_]:
    """Draw flags with a mean and an intraclass correlation (beta-binomial)."""
    chance = np.full(images, rate)
    if icc:
        total = 1 / icc - 1
        chance = rng.beta(rate * total, (1 - rate) * total, images)
    return np.asarray(rng.random((images, each)) < chance[:, None]).ravel()


def lost_answers(
    lost: NDArray[np.bool_], each: int, slices: dict[str, list[str]] | None = None
) -> Pairs:
    """A baseline that is always right, and a variant that lost some answers."""
    n = len(lost)
    ids, cluster = np.arange(n), np.arange(n) // each
    right = np.ones(n, dtype=np.bool_)
    return pair(
        Outcomes.from_columns(ids, answer=right, correct=right, cluster=cluster, slices=slices),
        Outcomes.from_columns(ids, answer=~lost, correct=~lost, cluster=cluster),
    )


def share(hits: int, trials: int) -> str:
    """Write a share with twice its simulation error."""
    if not trials:
        return "–"
    p = hits / trials
    return f"{p:.1%} ± {2 * sqrt(p * (1 - p) / trials):.1%}"


if __name__ == "__main__":
    main()
