"""Watched states are those of the visual tokens left, on every family, in ragged batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import families
import pytest
import torch
from families import FAMILIES, IMAGE, LAYERS, Bare
from stabfw.components import Encoded, LoadRequest, ModelInfo
from stabfw.components.patch import Patch, fingerprint
from stabfw.components.reduction import (
    Context,
    Reduction,
    budget,
    keep_highest,
    reduce_visual_tokens,
)
from stabfw.components.visual_states import States, watch_visual_states
from stabfw.errors import UnsupportedError

model_of = functools.cache(families.build)
every_family = pytest.mark.parametrize("family", FAMILIES)
DEPTHS = (0, 2, LAYERS)


def uneven(context: Context) -> Reduction:
    """Keep another share of the tokens in each row, and mark them."""
    share = {"row 0": 0.3, "row 1": 0.8, "row 2": 0.5}[context.instance_id]
    rng = context.rng("uneven", context.layer)
    count = budget(context.visual_tokens, share)
    keep = torch.from_numpy(rng.choice(context.visual_tokens, count, replace=False)).sort().values
    return Reduction(keep)


def by_last(context: Context) -> Reduction:
    """Keep what is most like the last token, which is another one at every step."""
    scores = context.states @ context.text_states[-1]
    return keep_highest(scores, budget(context.visual_tokens, 0.5))


def nothing(context: Context) -> Reduction:
    return Reduction(torch.arange(0))


def watched(
    model: Bare, batch: Encoded, plan: Mapping[int, Any], generated: Mapping[str, Any] | None = None
) -> States:
    with Patch() as patch:
        if plan:
            reduce_visual_tokens(model, plan, patch)
        take = watch_visual_states(model, DEPTHS, patch)
        if generated is None:
            model.forward(batch)
        else:
            model.continue_(batch, **generated)
        return take()


def by_output(model: Bare, batch: Encoded) -> list[torch.Tensor]:
    """Hidden states as transformers itself gives them: embeddings, then after each layer."""
    with torch.inference_mode():
        hidden = []
        hooks = [
            layer.register_forward_hook(
                lambda m, a, out: hidden.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in model.anatomy.layers  # type: ignore[union-attr]
        ]
        model.module(**batch.inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
    return hidden


@every_family
def test_they_are_the_states_at_the_placeholders(family: str) -> None:
    model = model_of(family, "sdpa")
    batch = model.batch_of([0, 1, 2])
    states = watched(model, batch, {})
    after = by_output(model, batch)
    for row, name in enumerate(batch.instance_ids):
        at = batch.inputs["input_ids"][row] == IMAGE
        assert torch.allclose(states[name][2], after[1][row, at], atol=1e-4)
        assert torch.allclose(states[name][LAYERS], after[-1][row, at], atol=1e-4)
    core = model.module.model
    pixels = {n: t for n, t in batch.inputs.items() if n.startswith(("pixel", "image_"))}
    with torch.inference_mode():
        features = torch.cat(list(core.get_image_features(**pixels).pooler_output))
    entered = torch.cat([states[name][0] for name in batch.instance_ids])
    assert torch.equal(entered, features.reshape(-1, features.shape[-1]))


@every_family
@pytest.mark.parametrize("layers", [(0,), (2,), (1, 3)])
def test_reduced_rows_of_a_batch_are_as_alone(family: str, layers: tuple[int, ...]) -> None:
    model = model_of(family, "sdpa")
    plan = dict.fromkeys(layers, uneven)
    together = watched(model, model.batch_of([0, 1, 2]), plan)
    assert list(together) == ["row 0", "row 1", "row 2"]
    for row in range(3):
        alone_of = model.batch_of([row])
        (name,) = alone_of.instance_ids
        alone = watched(model, alone_of, plan)[name]
        count = int((alone_of.inputs["input_ids"] == IMAGE).sum())
        for depth in DEPTHS:
            left = count
            for layer in layers:
                if layer <= depth:
                    left = budget(left, {"row 0": 0.3, "row 1": 0.8, "row 2": 0.5}[name])
            assert len(together[name][depth]) == left
            assert torch.allclose(together[name][depth], alone[depth], atol=1e-4)


@every_family
def test_what_is_left_before_the_first_layer_is_what_was_kept(family: str) -> None:
    model = model_of(family, "sdpa")
    batch = model.batch_of([0, 1, 2])
    whole, kept = watched(model, batch, {}), {}

    def noting(context: Context) -> Reduction:
        reduction = uneven(context)
        kept[context.instance_id] = reduction.keep
        return reduction

    for name, states in watched(model, batch, {0: noting}).items():
        assert torch.equal(states[0], whole[name][0][kept[name]])


def test_tokens_that_are_all_gone_leave_nothing() -> None:
    model = model_of("llava", "sdpa")
    states = watched(model, model.batch_of([0, 1]), {2: nothing})
    assert {len(told[2]) for told in states.values()} == {0}
    assert {len(told[LAYERS]) for told in states.values()} == {0}
    assert min(len(told[0]) for told in states.values()) > 0


@every_family
def test_only_the_first_prefill_counts(family: str) -> None:
    model = model_of(family, "sdpa")
    batch = model.batch_of([0, 1, 2])
    for plan in ({}, {2: by_last}):
        once = watched(model, batch, plan)
        for use_cache in (True, False):
            again = watched(model, batch, plan, {"use_cache": use_cache})
            for name, states in once.items():
                for depth in DEPTHS:
                    assert states[depth].shape == again[name][depth].shape
                    assert torch.allclose(states[depth], again[name][depth], atol=1e-4)


@every_family
def test_watching_changes_nothing_and_ends(family: str) -> None:
    model = model_of(family, "sdpa")
    batch = model.batch_of([0, 1, 2])
    model.forward(batch)
    before, structure = model.forward(batch), fingerprint(model.module)
    with Patch() as patch:
        take = watch_visual_states(model, DEPTHS, patch)
        during = model.forward(batch)
        assert fingerprint(model.module) != structure
        assert len(take()) == 3
        assert take() == {}
    assert torch.equal(before, during)
    assert fingerprint(model.module) == structure


def test_models_without_an_anatomy_are_refused() -> None:
    model = Bare.__new__(Bare)
    model.info, model.request = ModelInfo("odd"), LoadRequest("odd")
    model.module = torch.nn.Linear(1, 1)
    model.module.config = type("Config", (), {"model_type": "odd"})()
    with Patch() as patch, pytest.raises(UnsupportedError, match="odd states no anatomy"):
        watch_visual_states(model, (0,), patch)
    with Patch() as patch, pytest.raises(UnsupportedError, match="not among 0 to 4"):
        watch_visual_states(model_of("llava", "sdpa"), (5,), patch)
