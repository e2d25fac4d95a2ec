"""Plain, slow ways to do without visual tokens, which dropping them must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from stabfw.components import LoadedModel, Prediction, Prompt
from stabfw.components import reduction_session as sessions
from stabfw.components.anatomy import Anatomy
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Positions, Reduction, Select
from stabfw.testing.bench import OPTIONS, Trial, answers
from stabfw.testing.check import NotApplicableError

#: What was decided: by layer, then by instance.
Decisions = dict[int, dict[str, Reduction]]


class Recorder(sessions.Session):
    """The hooks of a reduction that note what is decided, once for each prefill."""

    def __init__(
        self, model: LoadedModel, anatomy: Anatomy, plan: Mapping[int, Select], positions: Positions
    ) -> None:
        noted = {layer: self._noting(select) for layer, select in plan.items()}
        super().__init__(model, anatomy, noted, positions)
        self.anatomy = anatomy
        self.positions = positions
        self.prefills: list[Decisions] = []

    def before_model(self, module: Any, args: Any, kwargs: Any) -> None:
        """Begin to note, if it is a prefill."""
        super().before_model(module, args, kwargs)
        if self._prefill:
            self.prefills.append({})

    def _noting(self, select: Select) -> Select:
        def noted(context: Context) -> Reduction:
            reduction = select(context)
            self.prefills[-1].setdefault(context.layer, {})[context.instance_id] = reduction
            return reduction

        return noted


def attach_recording(tried: Trial, patch: Patch) -> Recorder:
    """Attach an accelerator so that what it decides is noted.

    Raises:
        NotApplicableError: If it does not drop tokens by `reduce_visual_tokens`, once.
    """
    made: list[Recorder] = []

    def make(*args: Any) -> Recorder:
        made.append(Recorder(*args))
        return made[-1]

    with Patch() as swapped:
        swapped.set(sessions, "Session", make)
        tried.attach(patch)
    if len(made) != 1:
        raise NotApplicableError("it does not drop tokens by one call of reduce_visual_tokens")
    return made[0]


def decided(decisions: Decisions) -> dict[int, dict[str, list[int]]]:
    """Which tokens are kept, comparable."""
    return {
        layer: {instance: reduction.keep.tolist() for instance, reduction in rows.items()}
        for layer, rows in decisions.items()
    }


class Hidden:
    """Lets every token pass every layer, but hides from deeper layers those that were dropped.

    Args:
        model: The model, with nothing attached.
        recorder: Knows the anatomy and what becomes of positions.
        decisions: What is dropped where.
        patch: Undoes it.
    """

    def __init__(
        self, model: LoadedModel, recorder: Recorder, decisions: Decisions, patch: Patch
    ) -> None:
        self._model, self._decisions = model, decisions
        self._anatomy, self._positions = recorder.anatomy, recorder.positions
        self._prefill = False
        self._valid = torch.empty(0)
        self._seen: list[torch.Tensor] = []
        self._states: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
        assert model.module is not None
        patch.pre_hook(model.module, self._before_model)
        for number in range(min(decisions), len(self._anatomy.layers)):
            patch.pre_hook(self._anatomy.layers[number], self._before_layer(number))

    def _before_model(self, module: Any, args: Any, kwargs: Any) -> None:
        cache = sessions.cache_of(kwargs)
        self._prefill = cache is None or cache.get_seq_length() == 0
        if not self._prefill:
            return
        batch = self._model.batch
        assert batch is not None
        ids = batch.inputs["input_ids"]
        self._valid = batch.inputs["attention_mask"].bool()
        seen, self._seen, self._states = self._valid.clone(), [], {}
        left = [(row == self._anatomy.image_token_id).nonzero()[:, 0] for row in ids]
        for number in range(len(self._anatomy.layers)):
            for row, instance in enumerate(batch.instance_ids):
                if (reduction := self._decisions.get(number, {}).get(instance)) is None:
                    continue
                kept = left[row][reduction.keep]
                seen[row, left[row]] = False
                seen[row, kept] = True
                left[row] = kept
                if reduction.states is not None:
                    self._states.setdefault(number, []).append((row, kept, reduction.states))
            self._seen.append(seen.clone())

    def _before_layer(self, number: int) -> Callable[..., Any]:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            given = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            if self._prefill:
                hidden = hidden.clone()
                for row, places, states in self._states.get(number, ()):
                    hidden[row, places] = states
            seen, queries = self._seen[number], hidden.shape[1]
            if not self._prefill:
                length = sessions.cache_of(given).get_seq_length(number) + 1
                more = torch.ones(len(seen), length - seen.shape[1], dtype=torch.bool)
                seen = torch.cat([seen, more], 1)
            given["attention_mask"] = _mask(seen, queries, hidden.dtype)
            if self._positions == "renumber":
                # Those that are seen are counted; what the others are given does not matter.
                places = (seen.cumsum(1) - 1).clamp(min=0)[:, -queries:]
                given["position_ids"] = places
                given["position_embeddings"] = self._anatomy.rotary(hidden, position_ids=places)
            return (hidden, *args[1:]), given

        return hook


def _mask(seen: torch.Tensor, queries: int, dtype: torch.dtype) -> torch.Tensor:
    place = torch.arange(seen.shape[1])
    allowed = (place[None] <= place[-queries:, None]) & seen[:, None]
    # A row that may look nowhere would give NaN.
    allowed |= place[None] == place[-queries:, None]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[
        :, None
    ]


@torch.inference_mode()
def shorter_prompt(
    model: LoadedModel, anatomy: Anatomy, prompt: Prompt, keep: torch.Tensor, positions: Positions
) -> torch.Tensor:
    """Ask without some of the visual tokens: the decoder is given fewer embeddings.

    Args:
        model: The model, with nothing attached.
        anatomy: Its parts.
        prompt: Is asked alone.
        keep: Indices of the visual tokens that are left.
        positions: Whether tokens keep their positions, or are renumbered without gaps.

    Returns:
        Log-probabilities of the first token, of shape (vocabulary,).

    Raises:
        NotApplicableError: If the model is more than its decoder and its output projection.
    """
    assert model.module is not None
    head = model.module.get_submodule(anatomy.head)

    def first(embeddings: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        decoded = anatomy.decoder(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            position_ids=places,
            use_cache=False,
        )
        found: torch.Tensor = head(decoded.last_hidden_state)[0, -1].float().log_softmax(-1)
        return found

    given: dict[str, Any] = {}
    with Patch() as patch:
        patch.pre_hook(anatomy.decoder, lambda _m, _a, kwargs: given.update(kwargs))
        (plain,) = answers(model, [prompt], replace(OPTIONS, max_new_tokens=1))
    embedded, places = given["inputs_embeds"], given.get("position_ids")
    ids = model.encode([prompt]).inputs["input_ids"][0]
    if places is None:
        places = torch.arange(len(ids))[None]
    if not near(first(embedded, places), plain):
        raise NotApplicableError("this model is more than its decoder and output projection")
    alive = ids != anatomy.image_token_id
    alive[(~alive).nonzero()[keep, 0]] = True
    left = places[..., alive] if positions == "keep" else torch.arange(int(alive.sum()))[None]
    return first(embedded[:, alive], left)


def near(logprobs: torch.Tensor, prediction: Prediction, tolerance: float = 1e-3) -> bool:
    """Whether the most likely first tokens of a prediction are as likely as that."""
    return all(
        abs(float(logprobs[token.id]) - token.logprob) <= tolerance for token in prediction.top
    )
