"""Arithmetic of natural log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, inf, log


def either(logprobs: Iterable[float]) -> float:
    """Log-probability that one of several exclusive things happens; -inf for none.

    Example:
        >>> from math import log
        >>> round(either([log(0.5), log(0.25)]), 6) == round(log(0.75), 6)
        True
    """
    values = list(logprobs)
    most = max(values, default=-inf)
    if most == -inf:
        return -inf
    return most + log(sum(exp(value - most) for value in values))


def among(logprobs: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Normalise log-probabilities of exclusive options.

    Args:
        logprobs: Log-probability of each option; one at least is more than -inf.

    Returns:
        The log-probability of each option given that it is one of them, and that of all of them
        together.

    Example:
        >>> from math import log
        >>> options, mass = among({"yes": log(0.3), "no": log(0.1)})
        >>> round(options["yes"], 6) == round(log(0.75), 6), round(mass, 6) == round(log(0.4), 6)
        (True, True)
    """
    mass = either(logprobs.values())
    return {option: value - mass for option, value in logprobs.items()}, mass
