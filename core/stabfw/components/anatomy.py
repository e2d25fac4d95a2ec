"""Where the parts of a vision-language model are that accelerators work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Anatomy:
    """The parts of one loaded model. A model plugin states them once for all accelerators.

    Attributes:
        decoder: The language model that holds the layers.
        layers: Its decoder layers, first to last.
        rotary: The module that computes rotary position embeddings from position ids.
        image_token_id: The placeholder's id in `input_ids`; one placeholder a visual token.
        vision_parts: Dotted names of modules that see the image before the decoder does.
        head: Dotted name of the output projection.
    """

    decoder: torch.nn.Module
    layers: Sequence[torch.nn.Module]
    rotary: torch.nn.Module
    image_token_id: int
    vision_parts: tuple[str, ...]
    head: str
