"""Single rows of a layer's attention, without asking the model for all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from stabfw.components.reduction import Rotary


def attention_rows(
    layer: torch.nn.Module,
    hidden: torch.Tensor,
    position_embeddings: Rotary,
    rows: Sequence[int],
    valid: torch.Tensor,
) -> torch.Tensor:
    """Compute some rows of a decoder layer's attention from the layer's input.

    Args:
        layer: The decoder layer, of the Llama or Qwen kind.
        hidden: Its input, of shape (batch, length, hidden size).
        position_embeddings: Cosines and sines of the rotary embedding, (1 or batch, length, size).
        rows: Places of the asking tokens; negative ones count from the end.
        valid: False for padding, of shape (batch, length).

    Returns:
        Probabilities in float32, of shape (batch, heads, rows, length).
    """
    attention: Any = layer.self_attn
    norm: Any = layer.input_layernorm
    cosine, sine = position_embeddings
    if not norm.weight.is_meta:
        # With layers on several devices, the input still lies on that of the layer before.
        hidden, cosine, sine = (part.to(norm.weight.device) for part in (hidden, cosine, sine))
    batch, length, _ = hidden.shape
    places = torch.arange(length, device=hidden.device)
    asking = places[list(rows)]
    states = norm(hidden)
    size = attention.head_dim
    query = attention.q_proj(states[:, asking]).view(batch, len(rows), -1, size).transpose(1, 2)
    key = attention.k_proj(states).view(batch, length, -1, size).transpose(1, 2)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    # Each modelling file has its own way of applying the same embedding.
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    query, _ = rotate(query, query, cosine[:, asking], sine[:, asking])
    key, _ = rotate(key, key, cosine, sine)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
    hidden_from = (places[None] > asking[:, None]) | ~valid[:, None, None].to(hidden.device)
    probabilities: torch.Tensor = scores.masked_fill(hidden_from, float("-inf")).softmax(-1)
    return probabilities
