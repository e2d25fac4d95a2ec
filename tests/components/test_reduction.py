"""Token reduction equals a masked model, on every family and for ragged batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import families
import pytest
import torch
from families import FAMILIES, LAYERS, Bare
from stabfw.components import Encoded, ModelInfo
from stabfw.components.patch import Patch, fingerprint
from stabfw.components.reduction import (
    Context,
    Reduction,
    Select,
    Tally,
    budget,
    reduce_visual_tokens,
    seen_by_layer,
    why_not,
)
from stabfw.errors import UnsupportedError
from transformers.modeling_outputs import BaseModelOutputWithPooling

Plan = Mapping[int, Select]
Kept = dict[int, dict[str, list[int]]]

model_of = functools.cache(families.build)
every_model = pytest.mark.parametrize(
    ("family", "attention"), [(f, a) for f in FAMILIES for a in ("sdpa", "eager")]
)


def everything(context: Context) -> Reduction:
    return Reduction(torch.arange(context.visual_tokens))


def uneven(context: Context) -> Reduction:
    """Keep another share of the tokens in each row, chosen by the instance."""
    rng = context.rng("uneven", context.layer)
    share = {"row 0": 0.3, "row 1": 0.8, "row 2": 0.5}[context.instance_id]
    kept = rng.choice(context.visual_tokens, budget(context.visual_tokens, share), replace=False)
    return Reduction(torch.from_numpy(kept).sort().values)


def recording(select: Select, kept: Kept) -> Select:
    def wrapped(context: Context) -> Reduction:
        reduction = select(context)
        kept.setdefault(context.layer, {})[context.instance_id] = reduction.keep.tolist()
        return reduction

    return wrapped


def reduced(
    model: Bare, plan: Plan, run: Callable[[], Any], positions: Any = "keep"
) -> tuple[Any, Tally]:
    with Patch() as patch:
        tally = reduce_visual_tokens(model, plan, patch, positions)
        return run(), tally


def masked_logits(model: Bare, batch: Encoded, kept: Kept) -> torch.Tensor:
    """Logits of a model that computes all tokens, but hides dropped ones from deeper layers."""
    ids, valid = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    length = ids.shape[1]
    causal = torch.ones(length, length).tril().bool()
    seen = valid.clone()
    left = [(row == families.IMAGE).nonzero()[:, 0] for row in ids]
    with Patch() as patch:
        for number, layer in enumerate(model.anatomy.layers):  # type: ignore[union-attr]
            for row, name in enumerate(batch.instance_ids):
                if number in kept:
                    keep = left[row][kept[number][name]]
                    seen[row, left[row]] = False
                    seen[row, keep] = True
                    left[row] = keep
            allowed = (causal & seen[:, None]) | torch.eye(length).bool()
            mask: torch.Tensor = allowed[:, None]
            if model.module.config._attn_implementation == "eager":
                mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)

            def hide(_: Any, args: Any, kwargs: Any, mask: torch.Tensor = mask) -> Any:
                return args, kwargs | {"attention_mask": mask}

            if number >= min(kept):
                patch.pre_hook(layer, hide)
        return model.forward(batch)


def rewritten_logits(
    model: Bare, batch: Encoded, keep: Sequence[int], positions: str
) -> torch.Tensor:
    """Logits of a single prompt that never held the dropped tokens and their features."""
    inputs = dict(batch.inputs)
    ids = inputs.pop("input_ids")
    visual = ids[0] == families.IMAGE
    live = ~visual
    live[visual.nonzero()[list(keep), 0]] = True
    core = model.module.model
    pixels = {n: inputs[n] for n in inputs if n.startswith(("pixel", "image_"))}
    with torch.inference_mode():
        features = core.get_image_features(**pixels).pooler_output
        kept = features[0][list(keep)]
        shorter = kept[None] if isinstance(features, torch.Tensor) else [kept]
        places = torch.arange(ids.shape[1])[live][None]
        if model.info.family.startswith("qwen"):
            whole, _ = core.get_rope_index(
                ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"]
            )
            places = torch.cat([torch.arange(int(live.sum()))[None, None], whole[:, :, live]])
        kwargs = {} if positions == "renumber" else {"position_ids": places}
        logits: torch.Tensor = model.module(
            input_ids=ids[:, live],
            attention_mask=torch.ones(1, int(live.sum()), dtype=torch.long),
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=shorter)},
            use_cache=False,
            **kwargs,
        ).logits[:, -1]
    return logits


@every_model
class TestEveryFamily:
    @pytest.mark.parametrize("positions", ["keep", "renumber"])
    def test_dropping_before_the_first_layer_equals_a_shorter_prompt(
        self, family: str, attention: str, positions: str
    ) -> None:
        if positions == "renumber" and family.startswith("qwen"):
            pytest.skip("multimodal rotary positions cannot be renumbered")
        model = model_of(family, attention)
        for row in range(3):
            batch, kept = model.batch_of([row]), {}
            plan = {0: recording(uneven, kept)}
            logits, _ = reduced(model, plan, lambda b=batch: model.forward(b), positions)
            (keep,) = kept[0].values()
            expected = rewritten_logits(model, batch, keep, positions)
            assert torch.allclose(logits, expected, atol=1e-5)
            assert not torch.allclose(logits, model.forward(batch), atol=1e-2)

    @pytest.mark.parametrize("layer", [0, 2])
    def test_keeping_all_is_bit_identical(self, family: str, attention: str, layer: int) -> None:
        model = model_of(family, attention)
        batch = model.batch_of([0, 1, 2])
        before = model.forward(batch)
        after, tally = reduced(model, {layer: everything}, lambda: model.forward(batch))
        assert torch.equal(before, after)
        assert tally.report()["engaged"] is False

    @pytest.mark.parametrize("layers", [(0,), (2,), (1, 3)])
    def test_dropping_equals_masking(
        self, family: str, attention: str, layers: Sequence[int]
    ) -> None:
        model = model_of(family, attention)
        batch = model.batch_of([0, 1, 2])
        kept: Kept = {}
        plan = dict.fromkeys(layers, recording(uneven, kept))
        logits, tally = reduced(model, plan, lambda: model.forward(batch))
        assert set(kept) == set(layers)
        assert torch.allclose(logits, masked_logits(model, batch, kept), atol=1e-4)
        assert not torch.allclose(logits, model.forward(batch), atol=1e-2)
        assert tally.report()["engaged"] is True

    def test_batch_equals_single_and_cached_equals_uncached(
        self, family: str, attention: str
    ) -> None:
        model = model_of(family, attention)
        together = model.batch_of([0, 1, 2])
        singles = [model.batch_of([row]) for row in range(3)]

        def run() -> tuple[list[list[int]], ...]:
            return (
                model.continue_(together),
                [model.continue_(single)[0] for single in singles],
                model.continue_(together, use_cache=False),
            )

        for layer in (0, 2):
            (batch, single, uncached), _ = reduced(model, {layer: uneven}, run)
            assert batch == single
            assert batch == uncached
            assert batch != model.continue_(together)

    def test_nothing_is_left_behind(self, family: str, attention: str) -> None:
        model = model_of(family, attention)
        batch = model.batch_of([0, 1])
        structure, logits = fingerprint(model.module), model.forward(batch)
        reduced(model, {1: uneven}, lambda: model.forward(batch))
        assert fingerprint(model.module) == structure
        assert torch.equal(model.forward(batch), logits)

        def fail(context: Context) -> Reduction:
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            reduced(model, {2: fail}, lambda: model.forward(batch))
        assert fingerprint(model.module) == structure
        assert torch.equal(model.forward(batch), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_attention_is_that_of_the_layer(family: str) -> None:
    model = model_of(family, "eager")  # the only one whose attention can be read from the model
    batch = model.batch_of([0, 1, 2])
    with torch.inference_mode():
        layers = model.module(**batch.inputs, output_attentions=True).attentions
    compared = []

    def compare(context: Context) -> Reduction:
        row = batch.instance_ids.index(context.instance_id)
        visual = batch.inputs["input_ids"][row] == families.IMAGE
        for layer in (context.layer - 1, context.layer):
            expected = layers[layer][row][:, [-1, -3]][:, :, visual]
            found = context.attention(layer, (-1, -3))
            compared.append(torch.allclose(found, expected, atol=1e-5))
        return everything(context)

    reduced(model, {2: compare}, lambda: model.forward(batch))
    assert compared == [True] * 6


def short_run(
    model: Bare, keep: torch.Tensor, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Logits of row 0, run layer by layer, the kept tokens renumbered from `layer` on."""
    batch = model.batch_of([0])
    anatomy = model.anatomy
    assert anatomy is not None
    visual = (batch.inputs["input_ids"][0] == families.IMAGE).nonzero()[:, 0]
    places = torch.cat([torch.arange(visual[0]), visual[keep], torch.arange(visual[-1] + 1, 23)])
    captured: list[torch.Tensor] = []
    with Patch() as patch:
        patch.pre_hook(anatomy.layers[layer], lambda _m, args, _k: captured.append(args[0]))
        model.forward(batch)
    with torch.inference_mode():
        hidden = change(captured[0])[:, places]
        embeddings = anatomy.rotary(hidden, position_ids=torch.arange(len(places))[None])
        for block in anatomy.layers[layer:]:
            hidden = block(hidden, attention_mask=None, position_embeddings=embeddings)
        decoder: Any = anatomy.decoder
        logits: torch.Tensor = model.module.lm_head(decoder.norm(hidden))[:, -1]
    return logits


class TestOptions:
    keep = torch.tensor([0, 3, 4, 9, 15])

    @pytest.mark.parametrize("layer", [0, 2])
    def test_renumbered_positions_close_the_gaps(self, layer: int) -> None:
        model = model_of("llava", "sdpa")
        plan = {layer: lambda _: Reduction(self.keep)}
        batch = model.batch_of([0])
        logits, _ = reduced(model, plan, lambda: model.forward(batch), "renumber")
        kept, _ = reduced(model, plan, lambda: model.forward(batch), "keep")
        expected = short_run(model, self.keep, layer, lambda hidden: hidden)
        assert torch.allclose(logits, expected, atol=1e-4)
        assert not torch.allclose(logits, kept, atol=1e-3)

    @pytest.mark.parametrize("layer", [0, 2])
    def test_renumbered_decoding_goes_on_where_prefill_ended(self, layer: int) -> None:
        model = model_of("llava", "sdpa")
        batch = model.batch_of([0, 1, 2])
        both, _ = reduced(
            model,
            {layer: uneven},
            lambda: (model.continue_(batch), model.continue_(batch, use_cache=False)),
            "renumber",
        )
        assert both[0] == both[1]

    def test_new_states_replace_those_of_kept_tokens(self) -> None:
        model = model_of("llava", "sdpa")

        def merge(context: Context) -> Reduction:
            return Reduction(self.keep, context.states[self.keep] * 0.5)

        def change(hidden: torch.Tensor) -> torch.Tensor:
            changed = hidden.clone()
            changed[:, self.keep + 3] *= 0.5
            return changed

        outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        with Patch() as patch:
            patch.hook(
                model.module.model.language_model.layers[1],
                lambda _m, _a, _k, output: outputs.append((output, output.clone())),
            )
            logits, _ = reduced(
                model, {2: merge}, lambda: model.forward(model.batch_of([0])), "renumber"
            )
        assert torch.allclose(logits, short_run(model, self.keep, 2, change), atol=1e-4)
        assert torch.equal(*outputs[0])  # the layer before may still need its own output

    def test_states_of_text_and_image_are_told_apart(self) -> None:
        model = model_of("llava", "sdpa")
        shapes = []

        def look(context: Context) -> Reduction:
            shapes.append((tuple(context.states.shape), tuple(context.text_states.shape)))
            return everything(context)

        reduced(model, {0: look}, lambda: model.forward(model.batch_of([0, 2])))
        assert shapes == [((16, 64), (7, 64)), ((16, 64), (13, 64))]

    def test_row_without_an_image_is_left_alone(self) -> None:
        model = model_of("llava", "sdpa")
        batch = model.batch_of([0, 1])
        ids, mask = batch.inputs["input_ids"].clone(), batch.inputs["attention_mask"].clone()
        ids[1, :16] = families.PAD
        ids[1][ids[1] == families.IMAGE] = 50
        mask[1, :16] = 0
        pixels = batch.inputs["pixel_values"][:1]
        mixed = Encoded(
            batch.instance_ids, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        )
        seen = []

        def look(context: Context) -> Reduction:
            seen.append(context.instance_id)
            return uneven(context)

        before = model.continue_(mixed)
        after, tally = reduced(model, {1: look}, lambda: model.continue_(mixed))
        assert seen == ["row 0"]
        assert after[1] == before[1]
        assert after[0] != before[0]
        assert (tally.rows, tally.before, tally.after) == (1, 16, 5)

    def test_dropping_every_token_works(self) -> None:
        model = model_of("llava", "sdpa")
        nothing = {2: lambda _: Reduction(torch.arange(0))}
        batch = model.batch_of([0, 1, 2])
        tokens, tally = reduced(model, nothing, lambda: model.continue_(batch))
        single, _ = reduced(model, nothing, lambda: model.continue_(model.batch_of([1])))
        assert tokens[1] == single[0]
        assert tally.after == 0

    def test_which_tokens_each_layer_saw_is_recorded(self) -> None:
        model, kept = model_of("llava", "sdpa"), {}
        plan = dict.fromkeys((1, 3), recording(uneven, kept))
        reduced(model, plan, lambda: model.forward(model.batch_of([0, 1])))
        depths, model.token_depths = model.token_depths, ()
        counts = [seen_by_layer(row, 4) for row in depths]
        assert counts == [(16, 5, 5, 2), (16, 13, 13, 10)]
        for row, found in enumerate(depths):
            first, then = (kept[layer][f"row {row}"] for layer in (1, 3))
            assert [n for n in range(16) if found[n] > 1] == first
            assert [n for n in range(16) if found[n] > 3] == [first[place] for place in then]

    def test_random_numbers_depend_on_instance_and_salt_only(self) -> None:
        model = model_of("llava", "sdpa")
        drawn: list[tuple[str, float, float]] = []

        def draw(context: Context) -> Reduction:
            drawn.append((context.instance_id, context.rng(1).random(), context.rng(2).random()))
            return everything(context)

        for rows in ([0, 1], [1], [2, 0]):
            reduced(model, {1: draw}, lambda rows=rows: model.forward(model.batch_of(rows)))  # type: ignore[misc]
        assert len(set(drawn)) == 3
        assert len({value for _, *pair in drawn for value in pair}) == 6


class TestRefusals:
    def refused(self, plan: Plan, error: type[Exception], message: str, **kwargs: Any) -> None:
        model = model_of("llava", "sdpa")
        with pytest.raises(error, match=message):
            reduced(model, plan, lambda: model.forward(model.batch_of([0])), **kwargs)

    @pytest.mark.parametrize("layer", [-1, LAYERS])
    def test_layer_that_does_not_exist(self, layer: int) -> None:
        self.refused({layer: everything}, UnsupportedError, "not all among the 4")

    @pytest.mark.parametrize("keep", [[1, 0], [0, 0], [16], [-1], [[0], [1]]])
    def test_indices_that_are_not_ascending_or_not_there(self, keep: list[Any]) -> None:
        self.refused({1: lambda _: Reduction(torch.tensor(keep))}, ValueError, "ascending")

    def test_states_that_do_not_fit(self) -> None:
        plan = {1: lambda c: Reduction(torch.tensor([0, 1]), c.states)}
        self.refused(plan, ValueError, "16 states for 2 kept tokens")

    def test_attention_of_a_far_layer(self) -> None:
        plan = {3: lambda c: Reduction(c.attention(0)[0, 0].argsort())}
        self.refused(plan, ValueError, "keys of layer 0 are not at hand")

    def test_renumbering_of_multimodal_positions(self) -> None:
        model = model_of("qwen2_vl", "sdpa")
        with pytest.raises(UnsupportedError, match="cannot be renumbered"):
            reduced(model, {1: everything}, lambda: None, "renumber")

    def test_model_without_anatomy(self) -> None:
        class Blind(Bare):
            anatomy = None  # type: ignore[assignment]

        with pytest.raises(UnsupportedError, match="states no anatomy"):
            reduced(Blind(model_of("llava", "sdpa").module), {1: everything}, lambda: None)

    def test_model_that_says_why_not(self) -> None:
        model = Bare(model_of("llava", "sdpa").module)
        model.info = replace(model.info, no_reduction="whole masks")
        with pytest.raises(UnsupportedError, match="whole masks"):
            reduced(model, {1: everything}, lambda: None)

    def test_static_cache(self) -> None:
        model = model_of("llava", "sdpa")
        batch = model.batch_of([0])
        with pytest.raises(UnsupportedError, match="static"):
            reduced(
                model,
                {1: everything},
                lambda: model.continue_(batch, cache_implementation="static"),
            )

    def test_beams(self) -> None:
        model = model_of("llava", "sdpa")
        with pytest.raises(UnsupportedError, match="no beams"):
            reduced(model, {1: uneven}, lambda: model.continue_(model.batch_of([0]), num_beams=2))

    def test_ids_are_known_only_while_generating(self) -> None:
        model = model_of("llava", "sdpa")
        batch = model.batch_of([0])
        with pytest.raises(RuntimeError, match="ids only while"):
            reduced(model, {1: uneven}, lambda: model.module(**batch.inputs))

    def test_support_is_known_without_loading(self) -> None:
        assert why_not(ModelInfo("llava", 4, has_anatomy=True), 3) is None
        assert "layers 0 to 3" in str(why_not(ModelInfo("llava", 4, has_anatomy=True), 4))
        assert "not known" in str(why_not(ModelInfo("paligemma", 4), 1))
        reason = "its masks are whole"
        refusing = ModelInfo("gemma3", 4, has_anatomy=True, no_reduction=reason)
        assert reason in str(why_not(refusing, 1))


def test_budget_is_rounded_and_never_empty() -> None:
    assert [budget(64, ratio) for ratio in (1, 0.5, 0.25, 0.01)] == [64, 32, 16, 1]
