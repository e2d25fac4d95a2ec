"""Bipartite soft matching."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget


def merge_alike(keep_ratio: float) -> Select:
    """Merge the visual tokens that are most alike.

    Args:
        keep_ratio: Share of the visual tokens that is left.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        if count == context.visual_tokens:
            return Reduction(torch.arange(count))
        return Reduction(*matched(context.features, context.visual_tokens - count))

    return select


def matched(features: torch.Tensor, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge tokens at even places into the tokens at odd places that they are most like.

    Args:
        features: Of shape (tokens, size).
        pairs: How many tokens are merged away, at most half of them, rounded up.

    Returns:
        Indices of the tokens that are left, ascending, and their features.
    """
    points = torch.nn.functional.normalize(features.float(), dim=-1)
    likeness, partner = (points[::2] @ points[1::2].T).max(1)
    merged = likeness.argsort(descending=True, stable=True)[:pairs]
    target = 2 * partner[merged] + 1
    total = features.float().index_add(0, target, features[2 * merged].float())
    size = torch.ones(len(features), device=features.device)
    size = size.index_add(0, target, torch.ones_like(size[: len(target)]))
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    left[2 * merged] = False
    keep = left.nonzero()[:, 0]
    return keep, (total / size[:, None])[keep].to(features)
