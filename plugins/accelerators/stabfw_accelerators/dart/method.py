"""The selection rule of DART."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def least_duplicated(keep_ratio: float, pivots: int, text_pivots: int) -> Select:
    """Keep visual pivots, and the visual tokens that are least like any pivot.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
        pivots: How many of them are pivots.
        text_pivots: How many tokens of the question are pivots.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        if count == context.visual_tokens:
            return Reduction(torch.arange(count))
        question = len(context.text_spans[-1])
        own = largest(context.keys(context.layer - 1), min(pivots, count))
        words = largest(context.text_keys(context.layer - 1)[-question:], text_pivots)
        states = context.states
        others = context.text_states[-question:][words.to(states.device)]
        return Reduction(unlike(states, own.to(states.device), others, count))

    return select


def largest(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Indices, ascending, of the keys with the largest L1 norm: (tokens, heads, size)."""
    return keep_highest(keys.float().abs().sum((1, 2)), count).keep


def unlike(
    states: torch.Tensor, pivots: torch.Tensor, others: torch.Tensor, count: int
) -> torch.Tensor:
    """Let each pivot in turn take tokens that are not like it.

    Args:
        states: Of the tokens to choose from, of shape (tokens, hidden size).
        pivots: Indices of those among them that are pivots, at most `count`.
        others: States of pivots that are not among them, of shape (others, hidden size).
        count: How many tokens are chosen, pivots included.

    Returns:
        Their indices, ascending.
    """
    points = torch.nn.functional.normalize(states.float(), dim=-1)
    all_pivots = torch.cat([points[pivots], torch.nn.functional.normalize(others.float(), dim=-1)])
    likeness = all_pivots @ points.T
    likeness[:, pivots] = torch.inf
    left = count - len(pivots)
    taken = [pivots]
    for number, row in enumerate(likeness):
        part = left * (number + 1) // len(likeness) - left * number // len(likeness)
        taken.append(row.argsort(stable=True)[:part])
        likeness[:, taken[-1]] = torch.inf
    return torch.cat(taken).sort().values
