"""Which tokens are kept."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select


def every_nth(step: int) -> Select:
    """Keep the first of every `step` visual tokens."""

    def select(context: Context) -> Reduction:
        return Reduction(torch.arange(0, context.visual_tokens, step))

    return select
