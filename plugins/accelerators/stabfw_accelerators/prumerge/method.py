"""The selection and merging of PruMerge."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def outliers_and_merged(keep_ratio: float | None, plus: bool) -> Select:
    """Keep patches with outlying attention, and merge others into them.

    Args:
        keep_ratio: Share of the visual tokens that is left; None lets the picture decide.
        plus: Whether evenly spaced patches are kept too.
    """

    def select(context: Context) -> Reduction:
        count = None if keep_ratio is None else budget(context.visual_tokens, keep_ratio)
        if count == context.visual_tokens:
            return Reduction(torch.arange(count))
        states = context.states
        patches = (context.places[:, 1] >= 0).nonzero()[:, 0].to(states.device)
        scores = context.vision_scores.to(states.device)[patches]
        # One of them is what is merged from all dropped ones.
        count = None if count is None else min(max(1, count - 1), len(patches))
        chosen = spread(scores, count) if plus else highest(scores, count)
        if len(chosen) == len(patches):
            return Reduction(patches)
        keys = context.vision_keys.to(states.device)[patches].flatten(1)
        extra = keep_ratio is None or len(chosen) < budget(context.visual_tokens, keep_ratio)
        keep, merged = merge(states[patches], scores, keys, chosen, extra)
        return Reduction(patches[keep], merged)

    return select


def outliers(scores: torch.Tensor) -> int:
    """Count scores above the third quartile by over 1.5 times the quartiles' range; at least 1."""
    first, third = scores.quantile(scores.new_tensor([0.25, 0.75])).unbind()
    return max(1, int((scores > third + 1.5 * (third - first)).sum()))


def highest(scores: torch.Tensor, count: int | None) -> torch.Tensor:
    """Choose the highest scores: as many as there are outliers, or `count`."""
    return keep_highest(scores, outliers(scores) if count is None else count).keep


def spread(scores: torch.Tensor, count: int | None) -> torch.Tensor:
    """Choose outliers and evenly spaced tokens.

    Args:
        scores: Of shape (tokens,).
        count: How many are chosen in all; None takes all but the last at a third of the stride that
            would give as many as there are outliers.

    Returns:
        Their indices, ascending.
    """
    high = highest(scores, None if count is None else min(count, outliers(scores)))
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[high] = True
    if count is None:
        chosen[: -1 : max(1, len(scores) // len(high) // 3)] = True
    elif count > len(high):
        rest = (~chosen).nonzero()[:, 0]
        missing = count - len(high)
        chosen[rest[torch.arange(missing, device=rest.device) * len(rest) // missing]] = True
    return chosen.nonzero()[:, 0]


def merge(
    states: torch.Tensor,
    scores: torch.Tensor,
    keys: torch.Tensor,
    chosen: torch.Tensor,
    extra: bool,
    neighbours: int = 32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add to chosen tokens what is like them.

    Args:
        states: Of shape (tokens, hidden size).
        scores: The weights with which tokens are added, of shape (tokens,).
        keys: By which tokens are alike, of shape (tokens, size).
        chosen: Indices of the tokens that are kept, ascending; not all of them.
        extra: Whether the weighted sum of all others becomes one more token, where the last of
            them stood.
        neighbours: How many tokens are added to each, the most alike first.

    Returns:
        Indices of the tokens whose places are kept, ascending, and what stands there.
    """
    weighted = states.float() * scores[:, None]
    likeness = torch.nn.functional.normalize(keys.float(), dim=-1)
    near = likeness[chosen] @ likeness.T
    near[torch.arange(len(chosen), device=chosen.device), chosen] = -torch.inf
    nearest = near.topk(min(neighbours, len(states) - 1)).indices
    merged = states[chosen].float() + weighted[nearest].sum(1)
    if not extra:
        return chosen, merged.to(states)
    dropped = torch.ones(len(states), dtype=torch.bool, device=states.device)
    dropped[chosen] = False
    last = dropped.nonzero()[-1]
    keep, order = torch.cat([chosen, last]).sort()
    return keep, torch.cat([merged, weighted[dropped].sum(0, keepdim=True)])[order].to(states)
