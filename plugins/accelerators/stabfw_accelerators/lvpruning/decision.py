"""The decision modules of LVPruning, and what is kept by them."""

from __future__ import annotations

from typing import cast

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest
from torch import nn


class Block(nn.Module):
    """Attention from visual to text tokens, then a feed-forward network.

    The residual of the attention is the projected query; the network has none.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size),
            nn.Linear(size, 2 * size),
            nn.SiLU(),
            nn.Linear(2 * size, size),
            nn.LayerNorm(size),
        )

    def forward(
        self, visual: torch.Tensor, text: torch.Tensor, is_text: torch.Tensor | None
    ) -> torch.Tensor:
        """Let the visual tokens of each row look at its text tokens.

        Args:
            visual: Of shape (batch, visual tokens, size).
            text: Of shape (batch, text tokens, size).
            is_text: False where there is none, of shape (batch, text tokens); None if there is
                one everywhere.
        """
        query = self.query(visual)
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (query, self.key(text), self.value(text))
        )
        mask = None if is_text is None else is_text[:, None, None]
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values, mask)
        state = self.output(seen.transpose(1, 2).flatten(2)) + query
        return cast(torch.Tensor, self.feed_forward(state))


class Decision(nn.Module):
    """Tells for each visual token whether to keep it: two blocks, and a layer to two logits."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(size, heads), Block(size, heads)])
        self.head = nn.Linear(size, 2)

    def forward(
        self, visual: torch.Tensor, text: torch.Tensor, is_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of keep and remove, of shape (batch, visual tokens, 2)."""
        for block in self.blocks:
            visual = block(visual, text, is_text)
        return cast(torch.Tensor, self.head(visual))


def decided_by(decision: Decision, keep_ratio: float) -> Select:
    """Keep the tokens that a trained module most wants to keep.

    Args:
        decision: The module of this layer.
        keep_ratio: Share of the original visual tokens that is left.
    """

    def select(context: Context) -> Reduction:
        weight = decision.head.weight
        visual, text = (
            states.to(weight.device, weight.dtype)[None]
            for states in (context.states, context.text_states)
        )
        with torch.no_grad():
            keep, remove = decision(visual, text)[0].float().unbind(-1)
        return keep_highest(keep - remove, budget(context.original_visual_tokens, keep_ratio))

    return select
