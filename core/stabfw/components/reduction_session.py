"""The hooks that carry a token reduction through prefill and decoding.

The decoder passes the same arguments to all of its layers. From the layer on at which tokens
were dropped, the hooks replace those that depend on the length: positions, their embeddings and
the attention mask. The cache needs nothing: each of its layers just stores fewer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from stabfw.components.anatomy import BlockCall
from stabfw.components.reduction import Context, Reduction, Sight, Stage, Tally, Tokens
from stabfw.errors import UnsupportedError

if TYPE_CHECKING:
    from stabfw.components.anatomy import Anatomy
    from stabfw.components.model import Encoded, LoadedModel
    from stabfw.components.reduction import LayerInput, Positions, Select


@dataclass
class Cut:
    """What layers from `layer` on see instead of what the model passes them.

    Attributes:
        layer: The first of these layers.
        tokens: What is left; padding is on the left again.
        dropped: Tokens lost so far in each row, of shape (batch, 1).
        seen: The layers' arguments in prefill.
        steps: The layers' arguments in decoding, by the lengths of the sequence and of what is new
            in it; only the last.
    """

    layer: int
    tokens: Tokens
    dropped: torch.Tensor
    seen: dict[str, Any]
    steps: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)


class Session:
    """The hooks of one reduction, with what they know of the batch at hand."""

    def __init__(
        self,
        model: LoadedModel,
        anatomy: Anatomy,
        plan: Mapping[int, Select],
        positions: Positions,
    ) -> None:
        self.tally = Tally()
        self._model, self._anatomy = model, anatomy
        self._plan, self._positions = dict(plan), positions
        config: Any = anatomy.decoder.config
        self._eager = config._attn_implementation == "eager"
        self._prefill = False
        self._tokens: Tokens | None = None
        self._cuts: list[Cut] = []
        self._depths = torch.empty(0)
        self._inputs: dict[int, LayerInput] = {}
        self._given: Mapping[str, Any] = {}
        self._call: BlockCall | None = None
        self._called_for: Encoded | None = None
        self._sight: Sight | None = None

    def before_vision_block(self, module: Any, args: Any, kwargs: Any) -> None:
        """Note what the vision tower computes, which may be long before the model is called."""
        self._call = BlockCall(args[0] if args else kwargs["hidden_states"], kwargs)
        self._called_for = self._model.batch

    def before_model(self, module: Any, args: Any, kwargs: Any) -> None:
        """Tell prefill from decoding, and note at prefill where the visual tokens are."""
        cache = cache_of(kwargs)
        self._prefill = cache is None or cache.get_seq_length() == 0
        if not self._prefill:
            return
        if getattr(cache, "is_compileable", False):
            raise UnsupportedError("token reduction needs a cache that grows, not a static one")
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise UnsupportedError("token reduction needs input_ids to find the visual tokens")
        batch = self._model.batch
        if batch is not None and len(batch.instance_ids) != len(ids):
            raise UnsupportedError("token reduction needs one row per instance, so no beams")
        ids = ids.cpu()
        mask = kwargs.get("attention_mask")
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
        visual = ids == self._anatomy.image_token_id
        self._tokens = Tokens(torch.arange(ids.shape[1]).expand_as(ids), valid, visual)
        # `generate` keeps what only the vision tower needs to itself.
        self._given = {**(batch.inputs if batch is not None else {}), **kwargs}
        self._cuts, self._inputs = [], {}
        self._depths = torch.full_like(ids, len(self._anatomy.layers), dtype=torch.uint8)
        count = int(visual.sum())
        self.tally.rows += int(visual.any(1).sum())
        self.tally.before += count
        self.tally.after += count

    def before_decoder(self, module: Any, args: Any, kwargs: Any) -> None:
        """Note at prefill what enters the first layer."""
        if self._prefill and self._tokens is not None:
            call = self._call if self._called_for is self._model.batch else None
            embedded = args[0] if args else kwargs["hidden_states"]
            self._sight = Sight(
                self._tokens.visual, self._given, self._anatomy.vision, call, embedded
            )

    def before_layer(self, number: int) -> Callable[..., Any]:
        """Make the pre-hook of a layer."""

        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            given = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            if self._prefill:
                hidden, changed = self._in_prefill(number, module, hidden, given)
            else:
                changed = self._in_decoding(number, hidden, given)
            return (hidden, *args[1:]), given | changed

        return hook

    def _in_prefill(
        self, number: int, module: torch.nn.Module, hidden: torch.Tensor, given: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        tokens = self._tokens
        if number in self._plan and tokens is not None and bool(tokens.visual.any()):
            embeddings = (given | self._seen())["position_embeddings"]
            inputs = {**self._inputs, number: (module, hidden, embeddings)}
            hidden = self._reduce(number, tokens, hidden, given, inputs)
        seen = self._seen()
        self._inputs = {}
        if number + 1 in self._plan:
            self._inputs[number] = (module, hidden, (given | seen)["position_embeddings"])
        return hidden, seen

    def _seen(self) -> dict[str, Any]:
        return self._cuts[-1].seen if self._cuts else {}

    def _in_decoding(
        self, number: int, hidden: torch.Tensor, given: dict[str, Any]
    ) -> dict[str, Any]:
        cut = next((cut for cut in reversed(self._cuts) if cut.layer <= number), None)
        if cut is None:
            return {}
        queries = hidden.shape[1]
        length = cache_of(given).get_seq_length(number) + queries
        if (length, queries) not in cut.steps:
            valid = cut.tokens.valid
            new = torch.ones(len(valid), length - valid.shape[1], dtype=torch.bool)
            step = {"attention_mask": self._mask(torch.cat([valid, new], 1), queries, hidden)}
            if self._positions == "renumber":
                step["position_ids"] = given["position_ids"] - cut.dropped
                step["position_embeddings"] = self._anatomy.rotary(
                    hidden, position_ids=step["position_ids"]
                )
            cut.steps = {(length, queries): step}
        return cut.steps[length, queries]

    def _reduce(
        self,
        number: int,
        tokens: Tokens,
        hidden: torch.Tensor,
        given: dict[str, Any],
        inputs: dict[int, LayerInput],
    ) -> torch.Tensor:
        batch = self._model.batch
        assert self._sight is not None, "the first layer comes before all others"
        ids = batch.instance_ids if batch else None
        stage = Stage(number, hidden, tokens, ids, inputs, self._sight)
        result, places = hidden, []
        for row, count in enumerate(tokens.visual.sum(1).tolist()):
            alive = tokens.valid[row]
            if count:
                reduction = self._plan[number](Context(stage, row))
                kept = tokens.visual[row].nonzero()[:, 0][_checked(reduction, number, count)]
                alive = (alive & ~tokens.visual[row]).index_fill(0, kept, True)
                if reduction.states is not None:
                    result = hidden.clone() if result is hidden else result
                    result[row, kept.to(hidden.device)] = reduction.states.to(hidden)
                dropped = tokens.columns[row, tokens.visual[row] & ~alive]
                self._depths[row, dropped] = number
                self.tally.after -= len(dropped)
            places.append(alive.nonzero()[:, 0])
        self._model.token_depths = tuple(self._depths_of(row) for row in range(len(places)))
        if sum(map(len, places)) == int(tokens.valid.sum()):
            return result
        return self._cut(number, tokens, places, result, given)

    def _depths_of(self, row: int) -> bytes:
        assert self._sight is not None
        depths = bytes(self._depths[row, self._sight.visual[row]].tolist())
        return depths if any(depth < len(self._anatomy.layers) for depth in depths) else b""

    def _cut(
        self,
        number: int,
        tokens: Tokens,
        places: list[torch.Tensor],
        hidden: torch.Tensor,
        given: dict[str, Any],
    ) -> torch.Tensor:
        width = max(map(len, places))
        # Padding repeats the last token: any real state will do, as it is masked everywhere.
        index = torch.full((len(places), width), hidden.shape[1] - 1)
        valid = torch.zeros_like(index, dtype=torch.bool)
        for row, alive in enumerate(places):
            index[row, width - len(alive) :] = alive
            valid[row, width - len(alive) :] = True
        left = Tokens(
            tokens.columns.gather(1, index), valid, tokens.visual.gather(1, index) & valid
        )
        columns = left.columns.to(hidden.device)
        seen: dict[str, Any] = {"attention_mask": self._mask(valid, width, hidden)}
        if self._positions == "renumber":
            seen["position_ids"] = (valid.cumsum(1) - 1).clamp(min=0).to(hidden.device)
            seen["position_embeddings"] = self._anatomy.rotary(
                hidden, position_ids=seen["position_ids"]
            )
        else:
            cosine, sine = given["position_embeddings"]
            seen["position_embeddings"] = (_pick(cosine, columns), _pick(sine, columns))
            if given.get("position_ids") is not None:
                seen["position_ids"] = _pick(given["position_ids"], columns)
        lost = (tokens.valid.sum(1) - valid.sum(1))[:, None].to(hidden.device)
        dropped = self._cuts[-1].dropped + lost if self._cuts else lost
        self._tokens = left
        self._cuts.append(Cut(number, left, dropped, seen))
        return _pick(hidden, index.to(hidden.device))

    def _mask(self, valid: torch.Tensor, queries: int, hidden: torch.Tensor) -> torch.Tensor | None:
        """A causal mask without padding, as the attention back end wants it.

        None, where that means the same: sdpa then takes its faster causal path.
        """
        length = valid.shape[1]
        # In prefill only: the faster path takes the first query for the first token.
        causal = queries == length and not self._eager
        if bool(valid.all()) and (queries == 1 or causal):
            return None
        place = torch.arange(length)
        allowed = (place[None] <= place[length - queries :, None]) & valid[:, None]
        # A padding row that may look nowhere would give NaN.
        allowed |= place[None] == place[length - queries :, None]
        allowed = allowed[:, None].to(hidden.device)
        if not self._eager:
            return allowed
        lowest = torch.finfo(hidden.dtype).min
        return torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill(~allowed, lowest)


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a model or a layer, or None."""
    # transformers renamed the argument in 5.24.
    return arguments.get("cache", arguments.get("past_key_values"))


def _checked(reduction: Reduction, layer: int, count: int) -> torch.Tensor:
    keep = reduction.keep.cpu()
    ascending = bool((keep[1:] > keep[:-1]).all())
    if keep.dim() != 1 or not ascending or (len(keep) and not 0 <= keep[0] <= keep[-1] < count):
        raise ValueError(
            f"token reduction at layer {layer}: `keep` must be ascending indices below {count}, "
            f"got {keep.tolist()}"
        )
    if reduction.states is not None and len(reduction.states) != len(keep):
        raise ValueError(
            f"token reduction at layer {layer}: {len(reduction.states)} states for "
            f"{len(keep)} kept tokens"
        )
    return keep


def _pick(tensor: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Gather columns of each row: (1 or batch, length, ...) -> (batch, columns, ...)."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return tensor.expand(len(columns), *tensor.shape[1:])[rows, columns]
