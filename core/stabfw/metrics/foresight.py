"""Which answers may be trusted unasked: a margin with a guarantee, fitted apart, then checked."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from math import ceil

import numpy as np

from .gates import MIN_CLUSTERS, RATES, harms
from .intervals import Interval, effective_size, proportion_interval
from .pairs import BoolArray, FloatArray, IntArray, Pairs
from .sizing import largest_passing
from .stability import MetricValue, metric_value, proportion_metric

FORESIGHT = (
    "foresight_threshold",
    "foresight_risk_fit",
    "foresight_coverage",
    "foresight_risk",
    "foresight_foreseen",
)

#: Where thresholds are looked for: at each of so many equal shares of the answers.
CANDIDATES = 50


@dataclass(frozen=True)
class ForesightRule:
    """What a threshold has to keep to.

    Attributes:
        metric: What counts as harm: one of the rates that can be gated.
        at_most: The share of the answers with so large a margin that may be harmed.
        confidence: How surely the threshold keeps to that, one-sided.
        margin: Whose lead of the first token over the next: `variant`, which is at hand wherever
            the accelerated model runs, or `baseline`.
        fit_share: The share of the clusters that it is fitted on.
        seed: Chooses them.
    """

    metric: str = "divergence_ratio"
    at_most: float = 0.02
    confidence: float = 0.95
    margin: str = "variant"
    fit_share: float = 0.5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Parts:
    """The two parts of a comparison's rows, each mask of shape ``(n,)``.

    Attributes:
        margin: The margin that the rule asks for, NaN where it is not known.
        fit: Rows that a threshold is fitted on. Rows without a margin are in neither part, nor
            are those that the rate is not taken over.
        check: Rows that it is checked on; they share no cluster with the others.
    """

    margin: FloatArray
    fit: BoolArray
    check: BoolArray


def parts(pairs: Pairs, rule: ForesightRule) -> Parts:
    """Divide the rows by the hash of their cluster.

    A cluster is in the same part wherever it occurs: under another stack or perturbation, in
    another order, or among other instances.

    Args:
        pairs: The joined cells.
        rule: What is asked for.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> run = Outcomes.from_columns(
        ...     ["q1", "q2"], answer=["A", "B"], correct=[True, True], margin=[0.1, 2.0])
        >>> parts(pair(run, run), ForesightRule()).fit.tolist()
        [False, True]
    """
    margin = (pairs.variant if rule.margin == "variant" else pairs.base).margin
    among, _ = harms(pairs, RATES[rule.metric])
    known = among & np.isfinite(margin)
    codes = pairs.cluster_codes
    # Codes count from 0 in order of first appearance.
    _, first = np.unique(codes, return_index=True)
    chosen = np.array(
        [_position(label, rule.seed) < rule.fit_share for label in pairs.cluster[first]],
        dtype=np.bool_,
    )
    inside = chosen[codes]
    return Parts(margin, known & inside, known & ~inside)


def foresee(pairs: Pairs, rule: ForesightRule) -> dict[str, MetricValue]:
    """Find the smallest margin above which few enough answers are harmed, and check it.

    Candidates are tested on the fitting part from the largest down, each at the full confidence,
    until one fails: the last that passed is the threshold. They are quantiles of the margins of
    the *other* part and the first of them follows from these margins alone, so that nothing of
    what the fitting part shows decides what is tested, and the confidence holds for the whole
    search. It holds for new questions of the same kind under the same stack. Pairs that could not
    be compared count as harmed where the margin is known, as they do in a gate.

    Args:
        pairs: The joined cells.
        rule: What is asked for.

    Returns:
        By the names in `FORESIGHT`:

        - ``foresight_threshold``: the margin in nats; None where none could be certified, and
          ``method`` then says why. ``n`` is the size of the fitting part.
        - ``foresight_risk_fit``: share harmed at or above it in the fitting part; ``high`` is the
          bound that was certified.
        - ``foresight_coverage``: share of the other part at or above it.
        - ``foresight_risk``: share of these that is harmed.
        - ``foresight_foreseen``: share of all harm in the other part that lies below it.

        Nothing where no margin is known.

    Source:
        Angelopoulos et al., "Learn then Test" (arXiv 2110.01052), section 2.2.1 (fixed sequence
        testing); the bounds are those of `gate_estimate`.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> ids = [str(i) for i in range(800)]
        >>> run = Outcomes.from_columns(
        ...     ids, answer=ids, correct=[True] * 800, margin=[i / 100 for i in range(800)])
        >>> foresee(pair(run, run), ForesightRule())["foresight_threshold"].value
        0.0
    """
    divided = parts(pairs, rule)
    margin, fit, check = divided.margin, divided.fit, divided.check
    if not fit.any() and not check.any():
        return {}
    _, harmed = harms(pairs, RATES[rule.metric])
    codes = pairs.cluster_codes
    n = int(np.count_nonzero(fit))
    tested = candidates(divided, codes, rule)
    if not tested:
        return _uncertified(n, "none certified: too few answers to fit it on")
    passed: tuple[float, BoolArray, Interval] | None = None
    for threshold in tested:
        rows = fit & (margin >= threshold)
        bounds = proportion_interval(harmed[rows], codes[rows], 2 * rule.confidence - 1, exact=True)
        if bounds.high > rule.at_most or _distinct(codes[rows]) < MIN_CLUSTERS:
            break
        passed = threshold, rows, bounds
    if passed is None:
        lost, of = int(np.count_nonzero(harmed[rows])), int(np.count_nonzero(rows))
        return _uncertified(n, f"none certified: {lost} of the surest {of} harmed")
    threshold, rows, bounds = passed
    level = f"one-sided {rule.confidence:.4g}"
    sure, harm = check & (margin >= threshold), check & harmed
    fitted = metric_value(
        "foresight_risk_fit",
        float(harmed[rows].mean()),
        Interval(0.0, bounds.high, f"{level}, {bounds.method}"),
        int(np.count_nonzero(rows)),
    )
    found = (
        MetricValue("foresight_threshold", threshold, None, None, n, f"fixed sequence, {level}"),
        fitted,
        proportion_metric("foresight_coverage", sure[check], codes[check]),
        proportion_metric("foresight_risk", harm[sure], codes[sure]),
        proportion_metric("foresight_foreseen", ~sure[harm], codes[harm]),
    )
    return {metric.name: metric for metric in found}


def candidates(divided: Parts, codes: IntArray, rule: ForesightRule) -> list[float]:
    """Return the thresholds to test, the largest first; the last one, 0, takes in every answer.

    The first is where the fitting part can be expected to hold answers enough to pass with one
    of them harmed: above it, a single one would end the search.

    Args:
        divided: The rows; only the margins of those in `check` are looked at, and how many there
            are in `fit`.
        codes: Cluster codes, shape ``(n,)``.
        rule: What is asked for.
    """
    margins, codes = divided.margin[divided.check], codes[divided.check]
    n = len(margins)
    if not n:
        return []
    ratio = float(np.count_nonzero(divided.fit)) / n
    ordered = np.sort(margins)[::-1]
    grid = {float(ordered[ceil(n * i / CANDIDATES) - 1]) for i in range(1, CANDIDATES)} | {0.0}

    def enough(threshold: float) -> bool:
        own = codes[margins >= threshold]
        untouched = np.zeros(len(own), dtype=np.bool_)
        size = ratio * effective_size(untouched, own, 2 * rule.confidence - 1)
        allowed = largest_passing(size, rule.at_most, rule.confidence) if size > 0 else None
        return bool(allowed) and ratio * _distinct(own) >= MIN_CLUSTERS

    ordered_grid = sorted(grid, reverse=True)
    start = next((i for i, one in enumerate(ordered_grid) if enough(one)), len(ordered_grid))
    return ordered_grid[start:]


def _uncertified(n: int, why: str) -> dict[str, MetricValue]:
    empty = {name: MetricValue(name, None, None, None, 0, "no threshold") for name in FORESIGHT}
    return empty | {FORESIGHT[0]: MetricValue(FORESIGHT[0], None, None, None, n, why)}


def _distinct(codes: IntArray) -> int:
    return int(np.count_nonzero(np.bincount(codes)))


def _position(cluster: object, seed: int) -> float:
    """Where a cluster falls between 0 and 1."""
    found = sha256(f"{seed} {cluster}".encode()).digest()
    return int.from_bytes(found[:8]) / 2**64
