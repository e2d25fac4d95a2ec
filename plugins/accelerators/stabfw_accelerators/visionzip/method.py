"""The selection and merging of VisionZip."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def dominant_and_contextual(keep_ratio: float, contextual_share: float) -> Select:
    """Keep the patches that the tower attends to most, and merge the others.

    Args:
        keep_ratio: Share of the visual tokens that is left.
        contextual_share: Share of what is left that is merged.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        if count == context.visual_tokens:
            return Reduction(torch.arange(count))
        patches = (context.places[:, 1] >= 0).nonzero()[:, 0]
        count = min(count, len(patches))
        states = context.states
        on_device = patches.to(states.device)
        keep, merged = zipped(
            states[on_device],
            context.vision_scores.to(states.device)[on_device],
            context.vision_keys.to(states.device)[on_device].mean(1),
            count - round(count * contextual_share),
            count,
        )
        return Reduction(on_device[keep], merged)

    return select


def zipped(
    states: torch.Tensor, scores: torch.Tensor, keys: torch.Tensor, dominant: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep tokens with high scores, and merge the others into `count - dominant`.

    Args:
        states: Of shape (tokens, hidden size).
        scores: Of shape (tokens,).
        keys: By which tokens are alike, of shape (tokens, size).
        dominant: How many are kept as they are.
        count: How many are left in all, at most as many as there are tokens.

    Returns:
        Indices of the tokens whose places are kept, ascending, and what stands there, of shapes
        (count,) and (count, hidden size).
    """
    kept = keep_highest(scores, dominant).keep
    left = torch.ones(len(states), dtype=torch.bool, device=states.device)
    left[kept] = False
    rest = left.nonzero()[:, 0]
    contextual = count - dominant
    if contextual == 0:
        return kept, states[kept]
    step = max(1, len(rest) // contextual)
    chosen = torch.arange(contextual, device=states.device) * step
    joining = torch.ones(len(rest), dtype=torch.bool, device=states.device)
    joining[chosen] = False
    likeness = torch.nn.functional.normalize(keys[rest].float(), dim=-1)
    target = (likeness[joining] @ likeness[chosen].T).argmax(1)
    merged = states[rest[chosen]].float()
    joined = states[rest[joining]].float()
    total = torch.zeros_like(merged).index_add_(0, target, joined)
    size = torch.bincount(target, minlength=contextual).clamp(min=1)
    contextual_states = (merged + total / size[:, None]).to(states)
    places, order = torch.cat([kept, rest[chosen]]).sort()
    return places, torch.cat([states[kept], contextual_states])[order]
