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
    states, (cosine, sine) = _normed(layer, hidden, position_embeddings)
    batch, length, _ = states.shape
    places = torch.arange(length, device=states.device)
    asking = places[list(rows)]
    query = attention.q_proj(states[:, asking]).view(batch, len(rows), -1, attention.head_dim)
    query = query.transpose(1, 2)
    if hasattr(attention, "q_norm"):
        query = attention.q_norm(query)
    query = _rotated(attention, query, cosine[:, asking], sine[:, asking])
    key = _keys(attention, states, cosine, sine)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
    hidden_from = (places[None] > asking[:, None]) | ~valid[:, None, None].to(states.device)
    probabilities: torch.Tensor = scores.masked_fill(hidden_from, float("-inf")).softmax(-1)
    return probabilities


def rotated_keys(
    layer: torch.nn.Module, hidden: torch.Tensor, position_embeddings: Rotary
) -> torch.Tensor:
    """Compute a decoder layer's keys from the layer's input.

    Args:
        layer: The decoder layer, of the Llama or Qwen kind.
        hidden: Its input, of shape (batch, length, hidden size).
        position_embeddings: Cosines and sines of the rotary embedding, (1 or batch, length, size).

    Returns:
        Keys after the rotary embedding, of shape (batch, heads, length, size).
    """
    states, (cosine, sine) = _normed(layer, hidden, position_embeddings)
    return _keys(layer.self_attn, states, cosine, sine)


def _normed(
    layer: torch.nn.Module, hidden: torch.Tensor, position_embeddings: Rotary
) -> tuple[torch.Tensor, Rotary]:
    norm: Any = layer.input_layernorm
    cosine, sine = position_embeddings
    if not norm.weight.is_meta:
        # With layers on several devices, the input still lies on that of the layer before.
        hidden, cosine, sine = (part.to(norm.weight.device) for part in (hidden, cosine, sine))
    return norm(hidden), (cosine, sine)


def _keys(
    attention: Any, states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    key = attention.k_proj(states).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    return _rotated(attention, key, cosine, sine)


def _rotated(
    attention: Any, states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    # Each modelling file has its own way of applying the same embedding.
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    rotated: torch.Tensor = rotate(states, states, cosine, sine)[0]
    return rotated
