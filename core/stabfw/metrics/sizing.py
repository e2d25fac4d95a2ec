"""How many questions a gate needs, and how likely it passes, before anything is run."""

from __future__ import annotations

from math import floor

#: With more losses than this, no sample size is looked for: the rate is too close to the limit.
MAX_LOSSES = 2000


def largest_passing(n: float, limit: float, confidence: float = 0.95) -> int | None:
    """Return the largest number of losses with which a gate still passes.

    Args:
        n: Independent questions at risk; may be fractional, as an effective number is.
        limit: What the rate of losses may not exceed.
        confidence: One-sided.

    Returns:
        The number; None if not even 0 losses pass.

    Source:
        Clopper and Pearson, Biometrika 26 (1934): the exact test that the rate is below the limit.

    Example:
        >>> largest_passing(2000, 0.01)
        12
    """
    if not _passes(0, n, limit, confidence):
        return None
    low, high = 0, max(floor(n * limit), 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _passes(middle, n, limit, confidence) else (low, middle - 1)
    return low


def power(n: float, rate: float, limit: float, confidence: float = 0.95) -> float:
    """Return how likely a gate passes if the true rate of losses is `rate`.

    Args:
        n: Independent questions at risk.
        rate: The true rate.
        limit: What it may not exceed.
        confidence: One-sided, of the gate.

    Example:
        >>> round(power(774, 0.0025, 0.01), 2)
        0.87
    """
    most = largest_passing(n, limit, confidence)
    return 0.0 if most is None else _at_most(most, n, rate)


def sample_size(
    rate: float, limit: float, confidence: float = 0.95, wanted: float = 0.8
) -> int | None:
    """Return the smallest number of questions with which a gate passes with the power wanted.

    Power is a saw-tooth: a few questions more can have less of it, until another loss is allowed.

    Args:
        rate: The true rate of losses.
        limit: What it may not exceed.
        confidence: One-sided, of the gate.
        wanted: The power.

    Returns:
        Independent questions at risk; None if the rate is too close to the limit, or above.

    Example:
        >>> sample_size(0.0, 0.01), sample_size(0.005, 0.01)
        (299, 1941)
    """
    if rate >= limit:
        return None
    smallest = 1
    for losses in range(MAX_LOSSES):
        smallest = _smallest(losses, smallest, limit, confidence)
        if _at_most(losses, smallest, rate) >= wanted:
            return smallest
    return None


def _smallest(losses: int, known: int, limit: float, confidence: float) -> int:
    """The smallest number of questions of which this many may be lost."""
    low, high = max(known, losses + 1), 2 * max(known, losses + 1)
    while not _passes(losses, high, limit, confidence):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        passes = _passes(losses, middle, limit, confidence)
        low, high = (low, middle) if passes else (middle + 1, high)
    return low


def _passes(losses: int, n: float, limit: float, confidence: float) -> bool:
    """Whether the one-sided upper Clopper-Pearson bound lies below the limit."""
    return losses < n and _at_most(losses, n, limit) < 1 - confidence


def _at_most(losses: int, n: float, rate: float) -> float:
    """The binomial probability of so many losses or fewer, for fractional n as well."""
    from scipy.special import betainc

    return float(betainc(n - losses, losses + 1, 1 - rate))
