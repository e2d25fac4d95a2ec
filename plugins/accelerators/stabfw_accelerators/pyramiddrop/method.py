"""The selection rule of PyramidDrop."""

from __future__ import annotations

from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest


def most_attended_next(keep_ratio: float) -> Select:
    """Keep the visual tokens that the last token is about to attend to most.

    Args:
        keep_ratio: Share of the original visual tokens that is left.
    """

    def select(context: Context) -> Reduction:
        scores = context.attention(context.layer)[:, 0].mean(0)
        count = budget(context.original_visual_tokens, keep_ratio)
        return keep_highest(scores, count)

    return select
