"""The one primitive of token reduction: keep these visual tokens at the input of layer K.

A method is a pure function of a `Context`, called once for each row of a batch; everything
else (left padding, masks, positions, the cache) is done here, for every family that states an
`Anatomy`. The tokens are removed by forward pre-hooks, so the model's own code runs, with
`sdpa` or `eager` attention, and all edits are undone by the `Patch`.

Torch is imported when the primitive is used, not before. Only the CPU was run for the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from stabfw.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stabfw.components.anatomy import Anatomy, BlockCall, Vision
    from stabfw.components.model import LoadedModel, ModelInfo
    from stabfw.components.patch import Patch

Positions = Literal["keep", "renumber"]
Rotary = tuple["torch.Tensor", "torch.Tensor"]
LayerInput = tuple["torch.nn.Module", "torch.Tensor", Rotary]


@dataclass(frozen=True)
class Reduction:
    """What a method decided for one row.

    Attributes:
        keep: Indices into the row's current visual tokens, ascending, of shape (kept,).
        states: New hidden states of the kept tokens, of shape (kept, hidden size), for methods
            that merge tokens; None leaves them as they are.
    """

    keep: torch.Tensor
    states: torch.Tensor | None = None


@dataclass
class Tally:
    """What a reduction did while it was attached.

    Attributes:
        rows: Rows with visual tokens that were prefilled.
        before: Their visual tokens, in all.
        after: Visual tokens that were left at the last layer, in all.
    """

    rows: int = 0
    before: int = 0
    after: int = 0

    def report(self) -> dict[str, Any]:
        """Tell it in the form of `Accelerator.report`."""
        if self.rows == 0:
            return {"engaged": "no prompt had an image"}
        return {
            "engaged": self.after < self.before,
            "visual_tokens_before": self.before / self.rows,
            "visual_tokens_after": self.after / self.rows,
        }


class Context:
    """What a method may look at, for one row at the input of its layer.

    Attributes:
        layer: The decoder layer before which tokens are dropped.
        visual_tokens: How many visual tokens the row has now.
    """

    def __init__(self, stage: Stage, row: int) -> None:
        self.layer = stage.layer
        self._stage = stage
        self._row = row
        self._columns = stage.now.visual[row].nonzero()[:, 0]
        self.visual_tokens = len(self._columns)

    @property
    def original_visual_tokens(self) -> int:
        """How many visual tokens the row had before the first layer."""
        return int(self._stage.sight.visual[self._row].sum())

    @property
    def instance_id(self) -> str:
        """Id of the instance that the row asks about.

        Raises:
            RuntimeError: If no batch is being generated, so rows have no ids.
        """
        if self._stage.ids is None:
            raise RuntimeError("rows have instance ids only while `LoadedModel.generate` runs")
        return self._stage.ids[self._row]

    @property
    def states(self) -> torch.Tensor:
        """Hidden states of the visual tokens, of shape (visual tokens, hidden size)."""
        return self._stage.hidden[self._row, self._columns.to(self._stage.hidden.device)]

    @property
    def text_states(self) -> torch.Tensor:
        """Hidden states of all other tokens but padding, of shape (tokens, hidden size)."""
        return self._stage.hidden[self._row, self._text.to(self._stage.hidden.device)]

    @property
    def text_spans(self) -> tuple[range, ...]:
        """Where in the sequence the text before, between and after the pictures is now."""
        text = self._text.tolist()
        columns = self._stage.now.columns[self._row, text].tolist()
        gaps = [n for n in range(1, len(text)) if columns[n] > columns[n - 1] + 1]
        return tuple(
            range(text[begin], text[end - 1] + 1)
            for begin, end in zip([0, *gaps], [*gaps, len(text)], strict=True)
        )

    @property
    def features(self) -> torch.Tensor:
        """The visual tokens as they entered the decoder, of shape (visual tokens, hidden size)."""
        return self._embedded(self._columns)

    @property
    def original_features(self) -> torch.Tensor:
        """All visual tokens that entered the decoder, of shape (original tokens, hidden size)."""
        sight = self._stage.sight
        return sight.embedded[self._row, sight.visual[self._row].to(sight.embedded.device)]

    @property
    def text_features(self) -> torch.Tensor:
        """All other tokens but padding as they entered the decoder, as `text_states`."""
        return self._embedded(self._text)

    @property
    def places(self) -> torch.Tensor:
        """Picture, tile, row and column of each visual token, of shape (visual tokens, 4).

        Pictures are counted within the prompt. Tile, row and column are -1 for a token that
        stands for no part of a picture, such as the mark of a row's end.

        Raises:
            UnsupportedError: If the model does not tell.
        """
        sight = self._stage.sight
        places = sight.places[self._numbers()]
        first = sight.numbers[self._row][sight.visual[self._row]][0]
        places[:, 0] -= sight.places[first, 0]
        return places

    @property
    def vision_scores(self) -> torch.Tensor:
        """The share of the vision tower's attention that each visual token gets.

        It is the attention of the class token where the tower has one, else the mean over all
        patches of the picture; in both cases the mean over heads. In float32, of shape
        (visual tokens,), with 0 for a token that stands for no part of a picture.

        Raises:
            UnsupportedError: If the model does not tell.
        """
        scores = self._stage.sight.scores
        return scores[self._numbers().to(scores.device)]

    @property
    def vision_keys(self) -> torch.Tensor:
        """The keys of the visual tokens in the block whose attention `vision_scores` tells.

        Where several patches become one visual token, their mean; before any rotary embedding.
        In float32, of shape (visual tokens, heads, size), with 0 for a token that stands for no
        part of a picture.

        Raises:
            UnsupportedError: If the model does not tell.
        """
        keys = self._stage.sight.keys
        return keys[self._numbers().to(keys.device)]

    @property
    def _text(self) -> torch.Tensor:
        """Places in the sequence of all tokens but visual ones and padding."""
        now = self._stage.now
        return (now.valid[self._row] & ~now.visual[self._row]).nonzero()[:, 0]

    def _embedded(self, places: torch.Tensor) -> torch.Tensor:
        embedded = self._stage.sight.embedded
        columns = self._stage.now.columns[self._row, places]
        return embedded[self._row, columns.to(embedded.device)]

    def _numbers(self) -> torch.Tensor:
        """Numbers of the visual tokens in the batch as it was before the first layer."""
        columns = self._stage.now.columns[self._row, self._columns]
        return self._stage.sight.numbers[self._row, columns]

    def attention(self, layer: int, rows: Sequence[int] = (-1,)) -> torch.Tensor:
        """Attention that some tokens pay to the visual tokens in one layer.

        Recomputed from the layer's input for these rows only, so it needs no `eager` attention;
        the softmax runs over the whole sequence.

        Args:
            layer: The context's own layer or the one before it.
            rows: Places of the asking tokens in the sequence; -1 is the last one.

        Returns:
            Probabilities in float32, of shape (heads, rows, visual tokens).

        Raises:
            ValueError: If the layer is another one.
        """
        probabilities = self._stage.attention(layer, tuple(rows), self._row)
        return probabilities[..., self._columns.to(probabilities.device)]

    def keys(self, layer: int) -> torch.Tensor:
        """Keys of the visual tokens in one layer, as its cache holds them.

        Args:
            layer: The context's own layer or the one before it.

        Returns:
            Keys after the rotary embedding, of shape (visual tokens, heads, size).

        Raises:
            ValueError: If the layer is another one.
        """
        keys = self._stage.keys(layer)[self._row]
        return keys[self._columns.to(keys.device)]

    def text_keys(self, layer: int) -> torch.Tensor:
        """The same of all other tokens but padding."""
        keys = self._stage.keys(layer)[self._row]
        return keys[self._text.to(keys.device)]

    def rng(self, *salt: int | str) -> np.random.Generator:
        """A generator that depends on the instance and on `salt`, not on batch or order."""
        import numpy as np

        text = "\x1f".join([self.instance_id, *map(str, salt)])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


Select = Callable[[Context], Reduction]


def budget(visual_tokens: int, keep_ratio: float) -> int:
    """How many tokens a share of them is: rounded, and at least one."""
    return max(1, round(visual_tokens * keep_ratio))


def seen_by_layer(depths: bytes, layers: int) -> tuple[int, ...]:
    """How many visual tokens each decoder layer saw.

    Args:
        depths: For each token the number of layers that saw it.
        layers: Layers of the decoder.

    Example:
        >>> seen_by_layer(bytes([1, 3, 3]), 3)
        (3, 2, 2)
    """
    # Once an answer: a loop over all tokens in each layer would take milliseconds.
    lost = accumulate(depths.count(layer) for layer in range(layers))
    return tuple(len(depths) - gone for gone in lost)


def keep_highest(scores: torch.Tensor, count: int) -> Reduction:
    """Keep the tokens with the highest scores, in their order.

    Of equal scores the earlier ones are kept, so the choice does not depend on how a device sorts.

    Args:
        scores: One for each visual token, of shape (visual tokens,).
        count: How many tokens are kept.
    """
    ranked = scores.argsort(descending=True, stable=True)
    return Reduction(ranked[:count].sort().values)


def why_not(
    info: ModelInfo, layer: int, positions: Positions = "keep", needs_vision: bool = False
) -> str | None:
    """Say why tokens of a model cannot be dropped before a layer, or None if they can.

    For `Accelerator.supports`, before the model is loaded.

    Args:
        info: What is known of the model.
        layer: The last layer before which tokens are dropped.
        positions: As for `reduce_visual_tokens`.
        needs_vision: Whether the method asks for `Context.places`, `vision_scores` or
            `vision_keys`.
    """
    if not info.has_anatomy:
        return f"the parts of a {info.family} model are not known, so its tokens cannot be dropped"
    if info.no_reduction:
        return f"visual tokens cannot be dropped: {info.no_reduction}"
    if info.layers is not None and layer >= info.layers:
        return f"there is no layer {layer}: the model has layers 0 to {info.layers - 1}"
    if needs_vision and not info.has_vision:
        return (
            f"a {info.family} model does not tell where its visual tokens are from and what its "
            "vision tower looks at, which the method goes by"
        )
    if positions == "renumber" and info.multimodal_positions:
        return "multimodal rotary positions cannot be renumbered: leave `positions` at `keep`"
    return None


def reduce_visual_tokens(
    model: LoadedModel,
    plan: Mapping[int, Select],
    patch: Patch,
    positions: Positions = "keep",
) -> Tally:
    """Drop visual tokens before some decoder layers, for every prompt, until the patch ends.

    Selection happens in prefill; decoding goes on with the shorter cache. Without a cache it
    happens anew at each step. Rows may keep different numbers of tokens: they are padded on the
    left and masked. A row without visual tokens is left alone. Where nothing is dropped, nothing
    is touched, so the result is then bit-identical.

    While a batch is generated, `model.token_depths` tells how deep each visual token went.

    Args:
        model: The model; it must have an anatomy.
        plan: The method for each layer before which tokens are dropped, counted from 0.
        patch: Undoes the edits.
        positions: `keep` lets the remaining tokens keep their original positions; `renumber`
            closes the gaps (not for models with multimodal rotary positions).

    Returns:
        A tally that fills up as prompts are answered.

    Raises:
        UnsupportedError: If the model cannot be reduced this way.
    """
    anatomy = model.anatomy
    if anatomy is None or model.module is None:
        raise UnsupportedError(f"token reduction: {model.info.family} states no anatomy")
    if model.info.no_reduction:
        raise UnsupportedError(f"token reduction: {model.info.no_reduction}")
    from stabfw.components.reduction_session import Session

    _check(anatomy, plan, positions)
    session = Session(model, anatomy, plan, positions)
    patch.pre_hook(model.module, session.before_model)
    patch.pre_hook(anatomy.layers[0], session.before_decoder)
    if anatomy.vision is not None:
        patch.pre_hook(anatomy.vision.block, session.before_vision_block)
    for number in range(max(0, min(plan) - 1), len(anatomy.layers)):
        patch.pre_hook(anatomy.layers[number], session.before_layer(number))
    return session.tally


def _check(anatomy: Anatomy, plan: Mapping[int, Select], positions: Positions) -> None:
    layers = len(anatomy.layers)
    config: Any = anatomy.decoder.config
    if not plan or not all(0 <= layer < layers for layer in plan):
        raise UnsupportedError(
            f"token reduction: layers {sorted(plan)} are not all among the {layers} of this model"
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise UnsupportedError(
            f"token reduction works with sdpa and eager attention, not with "
            f"{config._attn_implementation}"
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise UnsupportedError("token reduction does not know sliding-window attention")
    rope = getattr(config, "rope_parameters", None) or {}
    if positions == "renumber" and "mrope_section" in rope:
        raise UnsupportedError("multimodal rotary positions cannot be renumbered")


@dataclass(frozen=True)
class Tokens:
    """The tokens that are alive, on the CPU; each tensor has the shape (batch, length)."""

    columns: torch.Tensor  # place in the original sequence
    valid: torch.Tensor  # False for padding
    visual: torch.Tensor


@dataclass
class Sight:
    """What was seen of a batch before the decoder's first layer.

    Attributes:
        visual: Where the visual tokens were, of shape (batch, length).
        inputs: The model's inputs.
        vision: What tells more of them, if anything does.
        call: What the block of the vision tower was called with, if it was.
        embedded: The input of the first layer, of shape (batch, length, hidden size).
    """

    visual: torch.Tensor
    inputs: Mapping[str, Any]
    vision: Vision | None
    call: BlockCall | None
    embedded: torch.Tensor

    @cached_property
    def numbers(self) -> torch.Tensor:
        """Numbers of the visual tokens through the batch, of shape (batch, length); else -1."""
        count = self.visual.flatten().cumsum(0).view(self.visual.shape) - 1
        return count.masked_fill(~self.visual, -1)

    @cached_property
    def places(self) -> torch.Tensor:
        """As `Vision.places` tells them, on the CPU."""
        if self.vision is None:
            raise UnsupportedError("this model does not tell where its visual tokens are from")
        return self.vision.places(self.inputs).cpu()

    @cached_property
    def scores(self) -> torch.Tensor:
        """As `Vision.scores` tells them."""
        vision, call = self._looked()
        return vision.scores(self.inputs, call)

    @cached_property
    def keys(self) -> torch.Tensor:
        """As `Vision.keys` tells them."""
        vision, call = self._looked()
        return vision.keys(self.inputs, call)

    def _looked(self) -> tuple[Vision, BlockCall]:
        if self.vision is None or self.call is None:
            raise UnsupportedError("this model does not tell what its vision tower looks at")
        return self.vision, self.call


@dataclass
class Stage:
    """The input of the layer at which tokens are about to be dropped."""

    layer: int
    hidden: torch.Tensor
    now: Tokens
    ids: tuple[str, ...] | None
    inputs: Mapping[int, LayerInput]
    sight: Sight
    _attention: dict[int, torch.Tensor] = field(default_factory=dict)
    _keys: dict[int, torch.Tensor] = field(default_factory=dict)

    def attention(self, layer: int, rows: tuple[int, ...], row: int) -> torch.Tensor:
        """Attention of one row of the batch in a layer: (heads, rows, length)."""
        from stabfw.components.attention_rows import attention_rows

        module, hidden, embeddings = self._input(layer)
        if rows != (-1,):
            # Each row asks for tokens of its own.
            hidden, valid = hidden[row, None], self.now.valid[row, None]
            cosine, sine = (part if len(part) == 1 else part[row, None] for part in embeddings)
            return attention_rows(module, hidden, (cosine, sine), rows, valid)[0]
        if layer not in self._attention:
            self._attention[layer] = attention_rows(
                module, hidden, embeddings, rows, self.now.valid
            )
        return self._attention[layer][row]

    def keys(self, layer: int) -> torch.Tensor:
        """A layer's keys for the whole batch: (batch, length, heads, size)."""
        from stabfw.components.attention_rows import rotated_keys

        if layer not in self._keys:
            self._keys[layer] = rotated_keys(*self._input(layer)).transpose(1, 2)
        return self._keys[layer]

    def _input(self, layer: int) -> LayerInput:
        if layer not in self.inputs:
            raise ValueError(
                f"attention and keys of layer {layer} are not at hand before layer {self.layer}; "
                f"ask for one of {sorted(self.inputs)}"
            )
        return self.inputs[layer]
