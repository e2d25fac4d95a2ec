"""How likely one model finds what another one answered."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .intervals import bootstrap_interval, cluster_totals
from .pairs import FloatArray, factorize
from .stability import MetricValue, mean_metric, metric_value


def loglik_delta(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """Compare the log-likelihood of the baseline's answers under baseline and variant.

    Negative where the variant finds them less likely, which shows drift before any answer
    changes. Greedy answers are not samples, so this is no Kullback-Leibler divergence.

    Args:
        before: Log-probabilities (nats) of the tokens of each answer under the baseline.
        after: The same under the variant.
        clusters: Instances with the same label are not independent, shape ``(n,)``.
        confidence: Two-sided coverage of the intervals.
        resamples: Bootstrap samples behind the second metric.
        seed: Seed of the bootstrap.

    Returns:
        ``answer_loglik_delta``, the mean change of an answer's log-likelihood, with a
        cluster-robust t interval; ``answer_loglik_delta_per_token``, the sum of all changes over
        the number of all tokens, with a bootstrap interval. Both in nats.

    Raises:
        ValueError: An answer does not have the same number of tokens on both sides.

    Example:
        >>> values = loglik_delta([[-0.1, -0.1], [-0.3]], [[-0.3, -0.3], [-0.3]], ["a", "b"])
        >>> round(values["answer_loglik_delta"].value, 3)
        -0.2
        >>> round(values["answer_loglik_delta_per_token"].value, 3)
        -0.133
    """
    sizes = np.array([len(tokens) for tokens in before], dtype=np.float64)
    if any(len(a) != len(b) for a, b in zip(before, after, strict=True)):
        raise ValueError("an answer has other tokens after than before")
    change = np.array([sum(b) - sum(a) for a, b in zip(before, after, strict=True)])
    # A token that one side holds for impossible has no finite change.
    known = np.isfinite(change) if len(change) else np.zeros(0, dtype=np.bool_)
    labels = np.fromiter(clusters, dtype=object, count=len(sizes))
    codes = factorize(labels[known])
    change, sizes = change[known], sizes[known]
    totals = cluster_totals(codes, change, sizes) if len(change) else np.zeros((0, 2))

    def per_token(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)

    token = float(per_token(totals.sum(axis=0)[None, :])[0])
    return {
        metric.name: metric
        for metric in (
            mean_metric("answer_loglik_delta", change, codes, confidence),
            metric_value(
                "answer_loglik_delta_per_token",
                token,
                bootstrap_interval(totals, per_token, confidence, resamples=resamples, seed=seed),
                len(change),
            ),
        )
    }
