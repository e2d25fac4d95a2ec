"""The selection rule of HoloV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest

_VARIETY = 0.09
_TINY = 1e-6


def of_each_crop(keep_ratio: float, crops: int) -> Select:
    """Keep the visual tokens with the most attention in each crop.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
        crops: How many parts the sequence of visual tokens is cut into.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        features = context.features
        scores = context.vision_scores.to(features.device)
        return Reduction(holistic(features, scores, count, crops))

    return select


def holistic(features: torch.Tensor, scores: torch.Tensor, count: int, crops: int) -> torch.Tensor:
    """Choose tokens from all crops.

    Args:
        features: Of shape (tokens, size).
        scores: The attention to each, of shape (tokens,).
        count: How many are chosen, at most as many as there are.
        crops: How many parts there are; their sizes differ by at most one.

    Returns:
        Their indices, ascending.
    """
    parts = torch.arange(len(scores), device=scores.device).tensor_split(min(crops, len(scores)))
    worth = [crop_score(features[part], scores[part]) for part in parts]
    quotas = shared_out(worth, [len(part) for part in parts], count)
    return torch.cat(
        [
            part[keep_highest(scores[part], quota).keep]
            for part, quota in zip(parts, quotas, strict=True)
        ]
    )


def crop_score(features: torch.Tensor, scores: torch.Tensor) -> float:
    """What a crop is worth: the mean attention, and how much likeness varies, on one scale."""
    attention = scores.float() * 1000
    points = torch.nn.functional.normalize(features.float(), dim=-1)
    others = max(1, len(points) - 1)
    cosine = (points @ points.T).fill_diagonal_(0)
    mean = cosine.sum(1, keepdim=True) / others
    variety = (cosine - mean).square().sum(1) / others
    scale = attention.mean() / (variety.mean() + _TINY)
    return float((attention + _VARIETY * scale * variety).mean())


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
