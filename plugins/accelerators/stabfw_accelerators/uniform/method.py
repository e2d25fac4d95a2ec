"""A blind selection rule without chance."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget


def evenly_spaced(keep_ratio: float) -> Select:
    """Keep visual tokens at equal distances: with a share of 1/n, every n-th.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.visual_tokens, keep_ratio)
        return Reduction(torch.arange(count) * context.visual_tokens // count)

    return select
