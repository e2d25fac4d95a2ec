"""Where the parts of a vision-language model are that accelerators work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockCall:
    """What a block of the vision tower was called with.

    Attributes:
        hidden: Its input; the shape is the family's own.
        given: Its other arguments.
    """

    hidden: torch.Tensor
    given: Mapping[str, Any]


class Vision(ABC):
    """What is known of the visual tokens before the decoder sees them.

    All methods tell it for the visual tokens of a whole batch, in the order of the rows and, in
    a row, of its placeholders.

    Attributes:
        block: The block of the vision tower whose attention `scores` and `keys` recompute.
    """

    block: torch.nn.Module

    @abstractmethod
    def places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Tell where in the pictures the visual tokens are from.

        Args:
            inputs: The model's inputs, as `LoadedModel.encode` made them.

        Returns:
            Picture of the batch, tile, row and column of each visual token, of shape
            (visual tokens, 4). Rows and columns count visual tokens of the tile. A token that
            stands for no part of a picture, such as the mark of a row's end, has -1 as its tile,
            row and column.
        """

    @abstractmethod
    def scores(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        """Tell how much the vision tower looks at each visual token.

        Args:
            inputs: The model's inputs, as `LoadedModel.encode` made them.
            call: What `block` was called with.

        Returns:
            The share of attention that each visual token gets in float32, of shape
            (visual tokens,); 0 where a token stands for no part of a picture.
        """

    @abstractmethod
    def keys(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        """Tell the keys by which the vision tower finds each visual token.

        Args:
            inputs: The model's inputs, as `LoadedModel.encode` made them.
            call: What `block` was called with.

        Returns:
            Keys before any rotary embedding in float32, of shape (visual tokens, heads, size); 0
            where a token stands for no part of a picture.
        """


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
        vision: What is known of visual tokens before the decoder sees them, if anything is.
    """

    decoder: torch.nn.Module
    layers: Sequence[torch.nn.Module]
    rotary: torch.nn.Module
    image_token_id: int
    vision_parts: tuple[str, ...]
    head: str
    vision: Vision | None = None
