"""Schedules of token reduction: the visual tokens that each decoder layer sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from stabfw.components.costs import Decoder, Flops, Schedule, attention, linear
from stabfw.errors import UnsupportedError

#: LVPruning has a module after each of these decoder layers, counted from 1.
LVPRUNING_LAYERS = (1, 8, 16)


def keep(layers: int, visual_tokens: int, kept: Mapping[int, int]) -> Schedule:
    """Drop visual tokens at the inputs of some layers.

    Args:
        layers: Decoder layers of the model.
        visual_tokens: Before anything is dropped.
        kept: How many are left, by the layer, counted from 0, before which the others go.

    Raises:
        ValueError: If a layer does not exist, or tokens would come back.
    """
    counts = {0: visual_tokens} | dict(sorted(kept.items()))
    for (_, before), (layer, after) in pairwise([(0, visual_tokens), *counts.items()]):
        if not 0 <= layer < layers:
            raise ValueError(f"there is no layer {layer}: the model has layers 0 to {layers - 1}")
        if not 0 <= after <= before:
            raise ValueError(f"layer {layer} cannot keep {after} visual tokens: there are {before}")
    seen = [counts[max(k for k in counts if k <= layer)] for layer in range(layers)]
    return Schedule(tuple(seen))


def lvpruning(
    decoder: Decoder, visual_tokens: int, text_tokens: int, keep_ratio: float
) -> Schedule:
    """Schedule of LVPruning with its decision modules.

    Sun et al., 2025, "LVPruning: An Effective yet Simple Language-Guided Vision Token Pruning
    Approach for Multi-modal Large Language Models" (Findings of NAACL 2025, arXiv 2501.13652):
    after decoder layers 1, 8 and 16 a module keeps ρ, ρ - 0.2 and ρ - 0.4 of the visual tokens.
    A module is two blocks of cross-attention from visual to text tokens, each with a feed-forward
    network C → 2C → C, and a linear layer to two logits. The paper names no output projection of
    the attention; with one, as here, its table of FLOPs comes out. Counts are rounded down.

    Raises:
        UnsupportedError: If the model has 16 layers or fewer.
        ValueError: If nothing would be left.
    """
    if decoder.layers <= LVPRUNING_LAYERS[-1]:
        raise UnsupportedError(
            f"lvpruning drops tokens after layer {LVPRUNING_LAYERS[-1]}, but the model has only "
            f"{decoder.layers} layers"
        )
    if not 0.4 < keep_ratio <= 1:
        raise ValueError(
            f"lvpruning keeps 0.4 less at its last module than at its first, so its ratio must lie "
            f"between 0.4 and 1, not at {keep_ratio:g}"
        )
    shares = (keep_ratio, keep_ratio - 0.2, keep_ratio - 0.4)
    # Without the rounding, 0.6 - 0.2 of ten tokens would be three.
    kept = [math.floor(round(share * visual_tokens, 6)) for share in shares]
    schedule = keep(decoder.layers, visual_tokens, dict(zip(LVPRUNING_LAYERS, kept, strict=True)))
    entering = (visual_tokens, *kept[:-1])
    width = decoder.hidden_size
    modules = [lvpruning_module(visual, text_tokens, width) for visual in entering]
    return Schedule(schedule.visual_tokens, sum(modules, Flops()))


def lvpruning_module(visual: int, text: int, width: int) -> Flops:
    """Cost of one decision module.

    Args:
        visual: Visual tokens that enter it.
        text: Text tokens.
        width: Hidden size of the decoder.
    """
    block = (
        linear(visual, width, width)
        + linear(text, width, 2 * width)
        + attention(visual, text, width)
        + linear(visual, width, width)
        + linear(visual, width, 2 * width) * 2
    )
    return block * 2 + linear(visual, width, 2)
