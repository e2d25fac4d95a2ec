"""Costs follow from sizes; the figures of a paper come out."""

from __future__ import annotations

import pytest
import torch
from stabfw.components.costs import (
    Architecture,
    Convention,
    Decoder,
    Flops,
    ImageCost,
    Schedule,
    attention,
    linear,
    prefill,
)
from stabfw.components.schedules import keep, lvpruning
from stabfw.errors import DataError, UnsupportedError
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from torch.utils.flop_counter import FlopCounterMode

SMALL = Decoder(
    layers=4,
    hidden_size=8,
    intermediate_size=12,
    heads=4,
    kv_heads=2,
    head_size=2,
    vocabulary=10,
    positions=100,
)


def teraflops(keep_ratio: float | None) -> float:
    """LLaVA-1.5-7B with one picture and 30 text tokens, pruned or not."""
    made = HfVlm(HfVlmConfig(source="llava-hf/llava-1.5-7b-hf")).architecture()
    image = made.image(336, 336)
    if keep_ratio is None:
        schedule = keep(made.decoder.layers, image.visual_tokens, {})
    else:
        schedule = lvpruning(made.decoder, image.visual_tokens, 30, keep_ratio)
    parts = prefill(made, [image], 30, schedule)
    return sum(flops.counted(Convention.LINEAR) for flops in parts.values()) / 1e12


# TFLOPs as arXiv 2501.13652 states them.
@pytest.mark.parametrize(
    ("keep_ratio", "published"), [(None, 8.38), (0.6, 3.97), (0.5, 3.18), (0.45, 2.79)]
)
def test_table_of_lvpruning_is_reproduced(keep_ratio: float | None, published: float) -> None:
    total = teraflops(keep_ratio)
    assert total == pytest.approx(published, abs=0.01)
    assert total == pytest.approx(published, rel=0.005)


def test_modules_of_lvpruning_on_all_tokens_cost_what_the_paper_says() -> None:
    made = HfVlm(HfVlmConfig(source="llava-hf/llava-1.5-7b-hf")).architecture()
    per_token = 2 * 2 * 6 * 4096**2 + 2 * 4096 * 2
    text = 2 * 30 * 2 * 2 * 4096**2
    # At a ratio of 1 the second module still drops 20 %.
    entering = 576 + 576 + 460
    assert lvpruning(made.decoder, 576, 30, 1.0).selection.linear == entering * per_token + 3 * text
    # "0.71 extra" TFLOPs are three modules on unpruned tokens.
    assert 3 * (576 * per_token + text) / 1e12 == pytest.approx(0.71, abs=0.005)


def test_module_of_lvpruning_costs_what_torch_counts() -> None:
    """One decision module built from torch's layers, without its normalisations."""
    visual, text, width = 7, 5, 16

    def block(states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        q, k, v, o = (torch.nn.Linear(width, width) for _ in range(4))
        up, down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)
        query = q(states)
        attended = o((query @ k(words).T).softmax(-1) @ v(words)) + query
        out: torch.Tensor = down(torch.nn.functional.silu(up(attended)))
        return out

    words = torch.randn(text, width)
    with FlopCounterMode(display=False) as counter:
        states = block(block(torch.randn(visual, width), words), words)
        torch.nn.Linear(width, 2)(states)
    decoder = Decoder(17, width, 1, 1, 1, width, 1, 100)
    # At 0.41 of seven tokens nothing reaches the third module, and two the second.
    found = lvpruning(decoder, visual, text, 0.41)
    assert found.visual_tokens == (7, *[2] * 7, *[1] * 8, 0)
    only_text = 2 * linear(text, width, 2 * width).linear
    modules = counter.get_total_flops() - only_text
    assert found.selection.counted(Convention.MATMUL) == (
        modules * (visual + 2 + 1) // visual + 3 * only_text
    )


def test_layer_and_head() -> None:
    layer = SMALL.layer(5)
    assert layer.linear == 2 * 5 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12)
    assert layer.attention == 2 * 2 * 4 * 5 * 5 * 2
    assert SMALL.head(5) == Flops(linear=2 * 5 * 8 * 10)
    assert SMALL.cache_bytes("bfloat16") == 2 * 2 * 2 * 2
    assert SMALL.cache_bytes("float32") == 2 * SMALL.cache_bytes("float16")


def test_prefill_adds_pictures_layers_and_head() -> None:
    image = ImageCost(6, {"vision tower": Flops(100, 10), "projector": Flops(7)})
    made = Architecture("toy", "float32", {}, SMALL, lambda width, height: image)
    schedule = Schedule((12, 12, 6, 3), selection=Flops(5, 1))
    parts = prefill(made, [image, image], 4, schedule)
    assert list(parts) == ["vision tower", "projector", "decoder", "selection", "head"]
    assert parts["vision tower"] == Flops(200, 20)
    assert parts["decoder"] == sum(map(SMALL.layer, (16, 16, 10, 7)), Flops())
    assert parts["selection"] == Flops(5, 1)
    assert parts["head"] == SMALL.head(7)
    assert prefill(made, [image], 4, schedule, head="last")["head"] == SMALL.head(1)
    assert Flops(3, 2).counted(Convention.LINEAR) == 3
    assert Flops(3, 2).counted(Convention.MATMUL) == 5
    assert attention(2, 3, 4) == Flops(attention=96)


def test_too_long_a_prompt_is_refused() -> None:
    made = Architecture("toy", "float32", {}, SMALL, lambda width, height: ImageCost(0, {}))
    prefill(made, [], 40, Schedule((60,) * 4))
    with pytest.raises(DataError, match="101 tokens are more than the 100 positions"):
        prefill(made, [], 41, Schedule((60, 10, 10, 10)))


def test_keep_drops_at_the_input_of_a_layer() -> None:
    assert keep(4, 10, {}).visual_tokens == (10, 10, 10, 10)
    assert keep(4, 10, {3: 1, 1: 5}).visual_tokens == (10, 5, 5, 1)
    assert keep(4, 10, {0: 5}).visual_tokens == (5, 5, 5, 5)
    assert keep(4, 10, {2: 0}).visual_tokens == (10, 10, 0, 0)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({4: 5}, "no layer 4: the model has layers 0 to 3"),
        ({1: 11}, "layer 1 cannot keep 11 visual tokens: there are 10"),
        ({1: 5, 2: 6}, "layer 2 cannot keep 6 visual tokens: there are 5"),
    ],
)
def test_schedules_that_cannot_be_are_refused(kept: dict[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep(4, 10, kept)


def test_lvpruning_is_refused_where_it_cannot_work() -> None:
    with pytest.raises(UnsupportedError, match="only 4 layers"):
        lvpruning(SMALL, 10, 4, 0.5)
    deep = Decoder(32, 8, 12, 4, 2, 2, 10, 100)
    for ratio in (0.4, 1.1):
        with pytest.raises(ValueError, match=r"between 0\.4 and 1"):
            lvpruning(deep, 10, 4, ratio)
