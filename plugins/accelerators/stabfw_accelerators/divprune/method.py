"""The selection rule of DivPrune."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget

_CHUNK = 1024


def most_diverse(keep_ratio: float) -> Select:
    """Keep visual tokens whose smallest distance from each other is large.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
    """

    def select(context: Context) -> Reduction:
        return Reduction(diverse(context.features, budget(context.visual_tokens, keep_ratio)))

    return select


def diverse(features: torch.Tensor, count: int) -> torch.Tensor:
    """Choose points greedily so that the nearest two are far apart; distance is 1 - cosine.

    Of points that are equally far, the first is chosen.

    Args:
        features: Of shape (points, size).
        count: How many are chosen, at least one.

    Returns:
        Their indices, ascending, of shape (count,).
    """
    points = torch.nn.functional.normalize(features.float(), dim=-1)
    if count >= len(points):
        return torch.arange(len(points))
    distance = 1 - _nearest_other(points)
    chosen = [distance.argmax()]
    distance = 1 - points @ points[chosen[0]]
    while len(chosen) < count:
        # A point is at no distance from itself, but rounding may leave some.
        distance[chosen[-1]] = -torch.inf
        chosen.append(distance.argmax())
        distance = torch.minimum(distance, 1 - points @ points[chosen[-1]])
    return torch.stack(chosen).sort().values


def _nearest_other(points: torch.Tensor) -> torch.Tensor:
    """Cosine of each point with the most similar other one, of shape (points,)."""
    found = []
    for begin in range(0, len(points), _CHUNK):
        cosine = points[begin : begin + _CHUNK] @ points.T
        cosine.diagonal(begin).fill_(-torch.inf)
        found.append(cosine.max(1).values)
    return torch.cat(found)
