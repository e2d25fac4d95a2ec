"""Blind selection rules."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget


def at_random(keep_ratio: float, seed: int) -> Select:
    """Keep a share of the visual tokens, drawn per instance without replacement.

    Args:
        keep_ratio: Share of the visual tokens that are kept.
        seed: Another seed keeps other tokens.
    """

    def select(context: Context) -> Reduction:
        kept = budget(context.visual_tokens, keep_ratio)
        drawn = context.rng(seed).choice(context.visual_tokens, kept, replace=False)
        return Reduction(torch.from_numpy(drawn).sort().values)

    return select


def blinded(select: Select) -> Select:
    """Keep as many tokens as another rule, drawn per instance and layer; merge none.

    Args:
        select: The rule, whose counts may depend on the instance.
    """

    def drawn(context: Context) -> Reduction:
        kept = len(select(context).keep)
        places = context.rng("blind", context.layer).choice(
            context.visual_tokens, kept, replace=False
        )
        return Reduction(torch.from_numpy(places).sort().values)

    return drawn
