"""The closed form counts what torch counts while the real modules run, part by part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stabfw.components import Image, Kind, Prompt
from stabfw.components.costs import Architecture, Convention, Flops, Schedule, prefill
from stabfw.components.patch import Patch
from stabfw.components.reduction import budget
from stabfw.components.schedules import keep
from stabfw.errors import DataError, UnsupportedError
from stabfw.registry import Registry
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from stabfw_models.hf_vlm.published import published_ids
from stabfw_models.qwen_vl import Qwen2Vl, QwenVlConfig
from test_published import on_meta
from torch.utils.flop_counter import FlopCounterMode

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
#: Widths and heights: square, wide, tall, larger than the largest grid, smaller than any limit.
SIZES = [(60, 60), (150, 70), (70, 151), (333, 200), (40, 90), (20, 20)]


def eager(source: Path) -> HfVlm:
    # torch counts the products of attention only where they are spelled out.
    return HfVlm(HfVlmConfig(source=str(source), device="cpu", threads=1, attention="eager"))


def picture(width: int, height: int) -> Image:
    rng = np.random.default_rng(0)
    return Image.from_pixels(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


class Counted:
    """FLOPs that torch counted, by the dotted name of a module."""

    def __init__(self, root: str, counter: FlopCounterMode) -> None:
        totals = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        self._counts = {name.removeprefix(f"{root}."): n for name, n in totals.items()}
        self.total = totals["Global"]
        # An outer product of positions and frequencies, which no convention counts.
        self.rotary = sum(n for name, n in self._counts.items() if name.endswith("rotary_emb"))

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


def matmul(flops: Flops) -> int:
    return flops.counted(Convention.MATMUL)


def whole(architecture: Architecture, visual_tokens: int) -> Schedule:
    return keep(architecture.decoder.layers, visual_tokens, {})


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_closed_form_equals_the_counter(
    family: str, size: tuple[int, int], checkpoint: Callable[[str], Path]
) -> None:
    made = eager(checkpoint(family))
    architecture = made.architecture()
    image = architecture.image(*size)
    with made.open(made.request()) as model:
        inputs = model.encode([Prompt("0", (picture(*size),), "how many are there?")]).inputs
        visual = int((inputs["input_ids"] == model.anatomy.image_token_id).sum())
        text = inputs["input_ids"].shape[1] - visual
        counts = {}
        for logits in (0, 1):
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                model.module(**inputs, logits_to_keep=logits)
            counts[logits] = Counted(type(model.module).__name__, counter)
        assert sum(p.numel() for p in model.module.parameters()) == sum(
            architecture.parameters.values()
        )
    assert image.visual_tokens == visual
    schedule = whole(architecture, visual)
    parts = prefill(architecture, [image], text, schedule)
    counted = counts[0]
    if family.startswith("qwen"):
        merger = counted["model.visual.merger"]
        assert matmul(parts["merger"]) == merger
        assert matmul(parts["vision tower"]) == counted["model.visual"] - merger
    else:
        assert matmul(parts["vision tower"]) == counted["model.vision_tower"]
        assert matmul(parts["projector"]) == counted["model.multi_modal_projector"]
    decoder = architecture.decoder
    for number in range(decoder.layers):
        layer = counted[f"model.language_model.layers.{number}"]
        assert matmul(decoder.layer(visual + text)) == layer
    assert matmul(parts["head"]) == counted["lm_head"]
    assert sum(map(matmul, parts.values())) == counted.total - counted.rotary
    last = prefill(architecture, [image], text, schedule, head="last")
    assert sum(map(matmul, last.values())) == counts[1].total - counts[1].rotary


@pytest.mark.parametrize("family", FAMILIES)
def test_several_pictures_add_up(family: str, checkpoint: Callable[[str], Path]) -> None:
    made = eager(checkpoint(family))
    architecture = made.architecture()
    sizes = SIZES[:3]
    with made.open(made.request()) as model:
        asked = Prompt("0", tuple(picture(*size) for size in sizes), "which is red?")
        inputs = model.encode([asked]).inputs
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.module(**inputs)
        counted = Counted(type(model.module).__name__, counter)
    images = [architecture.image(*size) for size in sizes]
    visual = sum(image.visual_tokens for image in images)
    text = inputs["input_ids"].shape[1] - visual
    parts = prefill(architecture, images, text, whole(architecture, visual))
    assert sum(map(matmul, parts.values())) == counted.total - counted.rotary


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_convention_counts_layers_with_weights(
    family: str, checkpoint: Callable[[str], Path]
) -> None:
    made = eager(checkpoint(family))
    architecture = made.architecture()
    seen = 0

    def add(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal seen
        out = module.weight.shape[0]
        seen += 2 * output.numel() // out * module.weight.numel()

    with made.open(made.request()) as model:
        weighted = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
        for module in model.module.modules():
            if isinstance(module, weighted):
                module.register_forward_hook(add)
        inputs = model.encode([Prompt("0", (picture(150, 70),), "is it red?")]).inputs
        with torch.inference_mode():
            model.module(**inputs)
    image = architecture.image(150, 70)
    text = inputs["input_ids"].shape[1] - image.visual_tokens
    parts = prefill(architecture, [image], text, whole(architecture, image.visual_tokens))
    assert sum(flops.counted(Convention.LINEAR) for flops in parts.values()) == seen


@pytest.mark.parametrize("family", FAMILIES)
def test_schedule_is_what_a_token_reduction_saves(
    family: str, checkpoint: Callable[[str], Path]
) -> None:
    made = eager(checkpoint(family))
    architecture = made.architecture()
    drop = Registry().load(Kind.ACCELERATOR, "random-drop")
    accelerator: Any = drop(drop.config_cls(layer=2, keep_ratio=0.25))
    with made.open(made.request()) as model, Patch() as patch:
        accelerator.attach(model, None, patch)
        encoded = model.encode([Prompt("0", (picture(150, 70),), "is it red?")])
        # Rows have ids, from which tokens are drawn, only in a batch that is being generated.
        model.batch = encoded
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.module(**encoded.inputs)
        counted = Counted(type(model.module).__name__, counter)
    image = architecture.image(150, 70)
    visual = image.visual_tokens
    text = encoded.inputs["input_ids"].shape[1] - visual
    left = budget(visual, 0.25)
    assert left < visual
    schedule = keep(architecture.decoder.layers, visual, {2: left})
    parts = prefill(architecture, [image], text, schedule)
    layers = [
        counted[f"model.language_model.layers.{i}"] for i in range(architecture.decoder.layers)
    ]
    assert matmul(parts["decoder"]) == sum(layers)
    assert matmul(parts["head"]) == counted["lm_head"]


@pytest.mark.parametrize("size", [(336, 336), (500, 1100)], ids=str)
@pytest.mark.parametrize("name", published_ids())
def test_closed_form_equals_the_counter_at_published_sizes(
    name: str, size: tuple[int, int]
) -> None:
    module = on_meta(name)
    module.set_attn_implementation("eager")
    architecture = HfVlm(HfVlmConfig(source=name)).architecture()
    image = architecture.image(*size)
    text = 30
    pixels, where = _meta_pixels(module, size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        (states,) = module.model.get_image_features(pixels, **where).pooler_output
        states = torch.cat([states, states.new_empty(text, states.shape[-1])])
        hidden = module.model.language_model(
            inputs_embeds=states[None],
            attention_mask=states.new_ones(1, len(states), dtype=torch.long),
            use_cache=False,
        )[0]
        module.lm_head(hidden)
    assert states.shape[0] - text == image.visual_tokens
    total = sum(
        map(
            matmul,
            prefill(architecture, [image], text, whole(architecture, image.visual_tokens)).values(),
        )
    )
    counts = counter.get_flop_counts()
    rotary = sum(sum(n.values()) for key, n in counts.items() if key.endswith("rotary_emb"))
    assert total == counter.get_total_flops() - rotary


def _meta_pixels(module: Any, size: tuple[int, int]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Pixels as transformers' own processors shape them; how many is theirs to say, not ours."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    from transformers.vision_utils import get_vision_position_ids

    width, height = size
    kind = module.config.model_type
    if kind.startswith("qwen"):
        rows, columns = (side // 14 for side in smart_resize(height, width, 28, 3136, 12845056))
        grid = torch.tensor([[1, rows, columns]])
        values = torch.empty(rows * columns, 3 * 2 * 14 * 14, dtype=module.dtype, device="meta")
        # Window bounds are read from the grid, which therefore has to be a real tensor.
        positions = get_vision_position_ids(grid, 2).to("meta")
        return values, {"image_grid_thw": grid, "position_ids": positions}
    if kind == "llava":
        return torch.empty(1, 3, 336, 336, dtype=module.dtype, device="meta"), {}
    grids = module.config.image_grid_pinpoints
    best = select_best_resolution((height, width), grids)
    tiles = best[0] // 336 * (best[1] // 336) + 1
    values = torch.empty(1, tiles, 3, 336, 336, dtype=module.dtype, device="meta")
    return values, {"image_sizes": torch.tensor([[height, width]])}


def test_limits_of_the_area_set_the_visual_tokens() -> None:
    def tokens(**limits: int) -> int:
        config = QwenVlConfig(source="Qwen/Qwen2-VL-7B-Instruct", **limits)
        return Qwen2Vl(config).architecture().image(640, 480).visual_tokens

    assert tokens() == 23 * 17
    assert tokens(max_pixels=28 * 28 * 100) == 11 * 8
    assert tokens(min_pixels=28 * 28 * 900) > 900


def test_what_has_no_formula_is_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedError, match=r"no formula for the costs of a internvl model"):
        eager(checkpoint("internvl")).architecture()


def test_bad_pictures_are_refused() -> None:
    def image(source: str, width: int, height: int) -> None:
        HfVlm(HfVlmConfig(source=source)).architecture().image(width, height)

    with pytest.raises(DataError, match="9000x10 pixels is too narrow"):
        image("Qwen/Qwen2-VL-2B-Instruct", 9000, 10)
    with pytest.raises(DataError, match="leaves no row of patches"):
        image("llava-hf/llava-v1.6-vicuna-7b-hf", 9000, 10)


def test_another_family_is_refused_before_any_weights() -> None:
    with pytest.raises(DataError, match="this is a llava model, not qwen2_vl"):
        Qwen2Vl(QwenVlConfig(source="llava-hf/llava-1.5-7b-hf")).architecture()


def test_a_directory_beats_a_published_name(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "llava-hf/llava-1.5-7b-hf"
    (tmp_path / "llava-hf").mkdir()
    (tmp_path / name).symlink_to(checkpoint("llava"))
    monkeypatch.chdir(tmp_path)
    assert HfVlm(HfVlmConfig(source=name)).architecture().decoder.layers == 4
