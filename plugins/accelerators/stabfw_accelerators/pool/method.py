"""Average pooling of visual tokens."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select


def blocks(size: int) -> Select:
    """Replace blocks of visual tokens by their means.

    Args:
        size: Rows and columns of a block.
    """

    def select(context: Context) -> Reduction:
        return Reduction(*pooled(context.features, context.places, size))

    return select


def pooled(
    features: torch.Tensor, places: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average tokens of one block.

    Args:
        features: Of shape (tokens, hidden size).
        places: Picture, tile, row and column of each, as `Context.places`.
        size: Rows and columns of a block.

    Returns:
        Indices of the first token of each block and of the marks of their rows, ascending, and
        what stands there.
    """
    patches = (places[:, 1] >= 0).nonzero()[:, 0]
    block = places[patches]
    block[:, 2:] //= size
    _, number, tokens = torch.unique(block, dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(tokens, len(places)).scatter_reduce(0, number, patches, "amin")
    number, patches = number.to(features.device), patches.to(features.device)
    mean = torch.zeros(len(tokens), features.shape[1], device=features.device)
    mean = mean.index_add(0, number, features[patches].float())
    states = features.clone()
    states[first.to(features.device)] = (mean / tokens.to(features.device)[:, None]).to(features)
    left = torch.zeros(len(places), dtype=torch.bool)
    left[first] = True
    keep = (left | _marks(places[:, 1] < 0, left)).nonzero()[:, 0]
    return keep, states[keep.to(features.device)]


def _marks(marks: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Which marks have a token left between them and the mark before."""
    seen = left.cumsum(0)[marks]
    stays = marks.clone()
    stays[marks] = seen.diff(prepend=seen.new_zeros(1)) > 0
    return stays
