"""The selection rule of FastV."""

from __future__ import annotations

from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def most_attended(keep_ratio: float) -> Select:
    """Keep the visual tokens that the last token attended to most in the layer before.

    Args:
        keep_ratio: Share of the visual tokens that are kept, 1 - R in the paper.
    """

    def select(context: Context) -> Reduction:
        scores = context.attention(context.layer - 1)[:, 0].mean(0)
        return keep_highest(scores, budget(context.visual_tokens, keep_ratio))

    return select
