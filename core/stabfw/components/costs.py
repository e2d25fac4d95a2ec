"""What a prefill costs: operations and bytes in closed form, from the sizes of a model.

A model plugin fills an `Architecture` from its config files; everything else follows without
weights and without torch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stabfw.errors import DataError

#: Bytes of one number, by dtype.
BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

Head = Literal["all", "last"]


class Convention(enum.StrEnum):
    """Which operations are counted; a multiply-accumulate is two of them in both.

    `LINEAR` counts the layers with weights, linear and convolution, and is what LVPruning's table
    holds. `MATMUL` adds the two products of attention over all pairs of tokens, without a saving
    for the causal mask, as `torch.utils.flop_counter` does.
    """

    LINEAR = "linear"
    MATMUL = "matmul"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations.

    Attributes:
        linear: Of linear and convolution layers.
        attention: Of the two products of attention.
    """

    linear: int = 0
    attention: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.linear * times, self.attention * times)

    def counted(self, convention: Convention) -> int:
        """Operations that count under a convention."""
        return self.linear + (self.attention if convention is Convention.MATMUL else 0)


def linear(tokens: int, inputs: int, outputs: int) -> Flops:
    """Cost of a linear layer, or of a convolution whose kernels do not overlap."""
    return Flops(linear=2 * tokens * inputs * outputs)


def attention(queries: int, keys: int, width: int) -> Flops:
    """Cost of scores and weighted sum, with `width` the head size times the number of heads."""
    return Flops(attention=4 * queries * keys * width)


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder with grouped-query attention and a gated feed-forward network.

    Attributes:
        layers: Decoder layers.
        hidden_size: Width between the layers.
        intermediate_size: Width inside the feed-forward network.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_size: Width of one head.
        vocabulary: Outputs of the head.
        positions: The longest sequence it was made for.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    positions: int

    def layer(self, tokens: int) -> Flops:
        """Cost of one layer for a sequence of `tokens`."""
        width = self.heads * self.head_size
        return (
            linear(tokens, self.hidden_size, width + 2 * self.kv_heads * self.head_size)
            + attention(tokens, tokens, width)
            + linear(tokens, width, self.hidden_size)
            + linear(tokens, self.hidden_size, self.intermediate_size) * 3
        )

    def head(self, tokens: int) -> Flops:
        """Cost of the logits of `tokens`."""
        return linear(tokens, self.hidden_size, self.vocabulary)

    def cache_bytes(self, dtype: str) -> int:
        """Bytes of keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_size * BYTES[dtype]


@dataclass(frozen=True)
class ImageCost:
    """What one picture costs before the decoder.

    Attributes:
        visual_tokens: Tokens that the decoder gets for it.
        parts: Cost by part of the model, such as `vision tower`.
    """

    visual_tokens: int
    parts: Mapping[str, Flops]


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model from which its costs follow.

    Attributes:
        family: As in `ModelInfo`.
        dtype: Of the weights as they are shipped.
        parameters: Their number by part, in the order of the computation; tied weights count once.
        decoder: Sizes of the language model.
        image: Cost of a picture of a width and a height in pixels. It raises `DataError` for a
            picture that the model does not take.
    """

    family: str
    dtype: str
    parameters: Mapping[str, int]
    decoder: Decoder
    image: Callable[[int, int], ImageCost]


@dataclass(frozen=True)
class Schedule:
    """How many visual tokens each decoder layer sees, and what choosing them costs.

    Attributes:
        visual_tokens: Of each layer; those of the last one reach the head as well.
        selection: Cost of the modules that choose; most methods have none.
    """

    visual_tokens: tuple[int, ...]
    selection: Flops = Flops()


def prefill(
    architecture: Architecture,
    images: Sequence[ImageCost],
    text_tokens: int,
    schedule: Schedule,
    head: Head = "all",
) -> dict[str, Flops]:
    """Compute the cost of one prompt, up to the logits of its tokens.

    Args:
        architecture: The model.
        images: The prompt's pictures; none if only the decoder is of interest.
        text_tokens: All other tokens of the prompt.
        schedule: The visual tokens of each layer.
        head: Whether the head runs over all tokens that are left, as in a forward pass and in
            LVPruning's table, or over the last one only, as when an answer is generated.

    Returns:
        The cost by part, in the order of the computation.

    Raises:
        DataError: If the prompt is longer than the model takes.
    """
    decoder = architecture.decoder
    longest = max(schedule.visual_tokens) + text_tokens
    if longest > decoder.positions:
        raise DataError(
            f"{longest:,} tokens are more than the {decoder.positions:,} positions of this model: "
            "take smaller or fewer pictures, or less text"
        )
    parts: dict[str, Flops] = {}
    for image in images:
        for part, flops in image.parts.items():
            parts[part] = parts.get(part, Flops()) + flops
    lengths = [visual + text_tokens for visual in schedule.visual_tokens]
    parts["decoder"] = sum(map(decoder.layer, lengths), Flops())
    if schedule.selection != Flops():
        parts["selection"] = schedule.selection
    parts["head"] = decoder.head(lengths[-1] if head == "all" else 1)
    return parts
