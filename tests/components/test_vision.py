"""Methods are told of each visual token where it is from and how much it is looked at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
from families import STUDIED, Bare
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw.errors import UnsupportedError

ROWS = [0, 1, 2]


def seen(model: Bare, look: Callable[[Context], Any], layer: int = 2) -> list[Any]:
    """What a method sees in each row of a batch, at a layer before which it halves the tokens."""
    told = []

    def every_second(context: Context) -> Reduction:
        if context.layer == layer:
            told.append(look(context))
        return Reduction(torch.arange(0, context.visual_tokens, 2))

    with Patch() as patch:
        reduce_visual_tokens(model, dict.fromkeys({1, layer}, every_second), patch)
        model.continue_(model.batch_of(ROWS), use_cache=True)
    return told


def pixels_of(model: Bare) -> dict[str, torch.Tensor]:
    inputs = model.batch_of(ROWS).inputs
    return {n: inputs[n] for n in inputs if n.startswith(("pixel", "image_"))}


@pytest.mark.parametrize("family", STUDIED)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
class TestStudiedFamilies:
    def test_features_are_those_of_the_projector(self, family: str, attention: str) -> None:
        model = families.build(family, attention)
        with torch.inference_mode():
            features = model.module.model.get_image_features(**pixels_of(model)).pooler_output
        for layer in (1, 2):
            told = seen(model, lambda context: context.features, layer)
            for row, found in enumerate(told):
                # Before layer 2, every second token was dropped already.
                assert torch.allclose(
                    found, features[row][:: layer if layer == 2 else 1], atol=1e-6
                )

    def test_scores_are_the_attention_of_the_tower(self, family: str, attention: str) -> None:
        model = families.build(family, attention)
        expected = expected_scores(families.build(family, "eager"))
        told = seen(model, lambda context: context.vision_scores, layer=1)
        for row, found in enumerate(told):
            assert found.dtype == torch.float32
            assert torch.allclose(found, expected[row], atol=1e-6)
            assert found.std() > 0
        deeper = seen(model, lambda context: context.vision_scores, layer=2)
        for whole, half in zip(told, deeper, strict=True):
            assert torch.equal(whole[::2], half)

    def test_keys_are_those_of_the_tower(self, family: str, attention: str) -> None:
        model = families.build(family, attention)
        expected = expected_keys(families.build(family, attention))
        told = seen(model, lambda context: context.vision_keys, layer=1)
        for row, found in enumerate(told):
            assert found.dtype == torch.float32
            assert torch.allclose(found.flatten(1), expected[row], atol=1e-6)
        deeper = seen(model, lambda context: context.vision_keys, layer=2)
        for whole, half in zip(told, deeper, strict=True):
            assert torch.equal(whole[::2], half)

    def test_places_are_where_the_model_puts_the_patches(self, family: str, attention: str) -> None:
        model = families.build(family, attention)
        told = seen(model, lambda context: context.places, layer=1)
        for row, found in enumerate(told):
            assert torch.equal(found, expected_places(families.build(family, attention), row))
        deeper = seen(model, lambda context: context.places, layer=2)
        for whole, half in zip(told, deeper, strict=True):
            assert torch.equal(whole[::2], half)


def expected_scores(model: Bare) -> list[torch.Tensor]:
    """Attention as the model itself computes it, in the order in which it hands on features."""
    core, pixels = model.module.model, pixels_of(model)
    if model.info.family.startswith("llava"):
        return [row[:, 0] for row in packed(model, class_attention(model))]
    code = sys.modules[type(core.visual).__module__]
    weights: list[torch.Tensor] = []

    def recording(original: Any, *args: Any, **kwargs: Any) -> Any:
        output, shares = original(*args, **kwargs)
        weights.append(shares)
        return output, shares

    def instead(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        # The last block looks at whole pictures, one call each; the merger keeps the tower's order.
        columns = torch.cat([w[0].mean((0, 1)) for w in weights[-len(ROWS) :]])
        return columns.view(-1, 4).mean(1)[:, None].expand_as(output)

    with Patch() as patch, torch.inference_mode():
        patch.wrap(code, "eager_attention_forward", recording)
        patch.hook(core.visual.merger, instead)
        features = core.get_image_features(**pixels).pooler_output
    return [picture[:, 0] for picture in features]


def expected_keys(model: Bare) -> list[torch.Tensor]:
    """Keys as the model itself projects them, in the order in which it hands on features."""
    core, pixels = model.module.model, pixels_of(model)
    projected: list[torch.Tensor] = []

    def note(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        projected.append(output)

    with Patch() as patch, torch.inference_mode():
        if model.info.family.startswith("llava"):
            patch.hook(core.vision_tower.encoder.layers[-2].self_attn.k_proj, note)
            core.get_image_features(**pixels)
            # As wide as the projector's output, so that it can take its place.
            wide = torch.nn.functional.pad(projected[0][:, 1:], (0, 32))
            return [row[:, :32] for row in packed(model, wide)]
        patch.hook(core.visual.blocks[-1].attn.qkv, note)

        def instead(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
            keys = projected[0].view(len(projected[0]), 3, -1)[:, 1]
            return torch.nn.functional.pad(keys.view(-1, 4, keys.shape[1]).mean(1), (0, 32))

        patch.hook(core.visual.merger, instead)
        return [row[:, :32] for row in core.get_image_features(**pixels).pooler_output]


def class_attention(model: Bare) -> torch.Tensor:
    """What the class token pays to the patches of each tile: (tiles, patches, 1)."""
    core, pixels = model.module.model, pixels_of(model)["pixel_values"]
    with torch.inference_mode():
        # All three pictures have all five tiles.
        attentions = core.vision_tower(pixels.flatten(0, -4), output_attentions=True).attentions
    shares: torch.Tensor = attentions[-2][:, :, 0, 1:].mean(1)
    return shares[..., None]


def packed(model: Bare, values: torch.Tensor) -> list[torch.Tensor]:
    """Put values of patches where the model puts their features, by way of its own code."""
    core = model.module.model

    def instead(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        return values.expand_as(output).to(output)

    pixels = pixels_of(model)
    with Patch() as patch, torch.inference_mode():
        if hasattr(core, "image_newline"):
            core.image_newline.zero_()
        patch.hook(core.multi_modal_projector, instead)
        return list(core.get_image_features(**pixels).pooler_output)


def expected_places(model: Bare, row: int) -> torch.Tensor:
    if model.info.family.startswith("qwen"):
        _, height, width = pixels_of(model)["image_grid_thw"][row].tolist()
        grid = torch.cartesian_prod(torch.arange(height // 2), torch.arange(width // 2))
        return torch.cat([torch.zeros(len(grid), 2, dtype=torch.long), grid], 1)
    # Tile, row and column plus one, so that the marks of rows' ends, which are zero, differ.
    tiles = 15 if model.info.family == "llava_next" else 3
    side = torch.arange(4)
    each = torch.arange(5 if model.info.family == "llava_next" else 1)
    told = []
    for axis in range(3):
        numbers = torch.cartesian_prod(each, side, side).view(-1, 3)[:, axis] + 1
        values = numbers.view(-1, 16, 1).repeat(tiles // len(each), 1, 1).float()
        told.append(packed(model, values)[row][:, 0].round().long() - 1)
    return torch.stack([torch.zeros_like(told[0]), *told], 1)


@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_text_is_told_by_where_it_stands(family: str) -> None:
    model = families.build(family, "sdpa")
    ids = model.batch_of(ROWS).inputs["input_ids"]
    whole = seen(model, lambda context: context.text_spans, layer=1)
    for row, spans in enumerate(whole):
        text = [place for span in spans for place in span]
        expected = (ids[row] != families.IMAGE) & (ids[row] != families.PAD)
        assert text == expected.nonzero()[:, 0].tolist()
        assert len(spans) == 2
    after = seen(model, lambda context: (context.text_spans, context.text_states), layer=2)
    for row, (spans, states) in enumerate(after):
        assert [len(span) for span in spans] == [len(span) for span in whole[row]]
        assert sum(map(len, spans)) == len(states)


def test_pictures_are_counted_within_a_prompt() -> None:
    model = families.build("llava", "sdpa")
    batch = model.batch_of([0, 1])
    ids = batch.inputs["input_ids"]
    # Two pictures in the second prompt.
    more = torch.full((2, 17), families.PAD)
    more[1, 1:] = families.IMAGE
    inputs = {
        "input_ids": torch.cat([more, ids], 1),
        "attention_mask": torch.cat(
            [(more != families.PAD).long(), batch.inputs["attention_mask"]], 1
        ),
        "pixel_values": torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(3)),
    }
    told = []

    def look(context: Context) -> Reduction:
        told.append(context.places[:, 0].tolist())
        return Reduction(torch.arange(context.visual_tokens))

    with Patch() as patch, torch.inference_mode():
        reduce_visual_tokens(model, {1: look}, patch)
        model.module(**inputs)
    assert told == [[0] * 16, [0] * 16 + [1] * 16]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_text_features_are_the_embeddings(family: str) -> None:
    model = families.build(family, "sdpa")
    ids = model.batch_of(ROWS).inputs["input_ids"]
    embed = model.module.get_input_embeddings()
    for row, found in enumerate(seen(model, lambda context: context.text_features)):
        text = ids[row][(ids[row] != families.IMAGE) & (ids[row] != families.PAD)]
        assert torch.allclose(found, embed(text), atol=1e-6)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_keys_are_those_in_the_cache(family: str) -> None:
    model = families.build(family, "sdpa")
    told: dict[int, list[Any]] = {1: [], 2: []}

    def look(context: Context) -> Reduction:
        told[context.layer].append((context.keys(context.layer - 1), context.text_keys(1)))
        return Reduction(torch.arange(0, context.visual_tokens, 2))

    batch = model.batch_of(ROWS)
    with Patch() as patch, torch.inference_mode():
        reduce_visual_tokens(model, dict.fromkeys((1, 2), look), patch)
        cache = model.module(**batch.inputs, use_cache=True).past_key_values
    ids, valid = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    for row in ROWS:
        visual = ids[row] == families.IMAGE
        before = cache.layers[0].keys[row].transpose(0, 1)
        assert torch.allclose(told[1][row][0], before[visual], atol=1e-5)
        # In layer 1 there are half of the visual tokens, padded on the left.
        held = cache.layers[1].keys[row].transpose(0, 1)
        kept = valid[row].clone()
        kept[visual.nonzero()[1::2, 0]] = False
        alive = held[len(held) - int(kept.sum()) :]
        assert torch.allclose(told[2][row][0], alive[visual[kept]], atol=1e-5)
        assert torch.allclose(told[2][row][1], alive[~visual[kept]], atol=1e-5)


def test_attention_of_chosen_rows_is_that_of_the_batch() -> None:
    """Each row asks for other tokens, and gets what it would get alone."""
    model = families.build("qwen2_5_vl", "sdpa")
    shapes = []

    def both(context: Context) -> Any:
        last = context.text_spans[-1][-1]
        shapes.append(context.attention(1, [0, last]).shape)
        return context.attention(1), context.attention(1, [0, last])

    for shared, chosen in seen(model, both):
        assert torch.allclose(shared[:, 0], chosen[:, 1], atol=1e-6)
        assert not torch.equal(chosen[:, 0], chosen[:, 1])
    assert len(shapes) == len(ROWS)


def test_family_without_scores_says_so() -> None:
    model = families.build("idefics3", "sdpa")
    for look in (
        lambda context: context.vision_scores,
        lambda context: context.vision_keys,
        lambda context: context.places,
    ):
        with pytest.raises(UnsupportedError, match="does not tell"):
            seen(model, look)
