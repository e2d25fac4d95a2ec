"""The selection rule of HoloV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def of_each_crop(keep_ratio: float, crops: int) -> Select:
    """Keep the visual tokens with the most attention in each crop.

    Args:
        keep_ratio: Share of the visual tokens that is kept.
        crops: How many parts the sequence of visual tokens is cut into.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        return Reduction(highest_of_each(context.vision_scores, count, crops))

    return select


def highest_of_each(scores: torch.Tensor, count: int, crops: int) -> torch.Tensor:
    """Choose tokens from all crops.

    Args:
        scores: The attention to each token, of shape (tokens,).
        count: How many are chosen, at most as many as there are.
        crops: How many parts there are; their sizes differ by at most one.

    Returns:
        Their indices, ascending.
    """
    parts = torch.arange(len(scores), device=scores.device).tensor_split(min(crops, len(scores)))
    worth = [float(scores[part].mean()) for part in parts]
    quotas = shared_out(worth, [len(part) for part in parts], count)
    return torch.cat(
        [
            part[keep_highest(scores[part], quota).keep]
            for part, quota in zip(parts, quotas, strict=True)
        ]
    )


def shared_out(worth: Sequence[float], sizes: Sequence[int], count: int) -> list[int]:
    """Share a budget out in proportion to worth; no part gets more than its size."""
    total = sum(worth) or 1.0
    quotas = [
        min(size, int(count * value / total)) for value, size in zip(worth, sizes, strict=True)
    ]
    best_first = sorted(range(len(worth)), key=lambda part: -worth[part])
    while sum(quotas) < count:
        for part in best_first:
            if quotas[part] < sizes[part] and sum(quotas) < count:
                quotas[part] += 1
    return quotas
