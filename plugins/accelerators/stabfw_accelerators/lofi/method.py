"""The selection rule of LoFi."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest
from stabfw.errors import UnsupportedError


def highest_leverage(keep_ratio: float, rank: int | None) -> Select:
    """Keep the visual tokens with the highest leverage scores.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
        rank: How many singular vectors count; None means as many as tokens are kept.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        if count == context.visual_tokens:
            return Reduction(torch.arange(count))
        return keep_highest(leverage(context.features, count if rank is None else rank), count)

    return select


def leverage(features: torch.Tensor, rank: int) -> torch.Tensor:
    """Squared norms of the rows of the first left singular vectors.

    Args:
        features: Of shape (tokens, size).
        rank: How many vectors; fewer than there are tokens.

    Returns:
        Scores between 0 and 1 in float64, of shape (tokens,).

    Raises:
        UnsupportedError: If the rank is not below the number of tokens.
    """
    tokens, size = features.shape
    if rank >= tokens:
        raise UnsupportedError(
            f"lofi: with rank {rank} all {tokens} visual tokens have the same leverage; choose a "
            f"rank below {tokens}"
        )
    points = features.double()
    # In double precision the eigenvectors of the tokens' products are U to more digits than the
    # features have.
    _, vectors = torch.linalg.eigh(points @ points.T)
    scores: torch.Tensor = vectors[:, -min(rank, size) :].square().sum(1)
    return scores
