"""Published checkpoints, built without weights, have the parameters that their files hold.

What a checkpoint holds is spelled out below as it is laid out on the hub. Its names are older
than the modules' own; transformers' rules for loading translate them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from stabfw_models.hf_vlm.loaded import find_anatomy
from stabfw_models.hf_vlm.published import published, published_ids
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

#: Parameters of each checkpoint as published, but for those that are marked: their sums were
#: derived from the layout below.
TOTALS = {
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "llava-hf/llava-1.5-13b-hf": 13_351_494_656,  # derived
    "llava-hf/llava-v1.6-vicuna-7b-hf": 7_063_431_168,  # derived
    "llava-hf/llava-v1.6-mistral-7b-hf": 7_566_747_648,  # derived
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, width: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (width,)
    if bias:
        yield f"{name}.bias", (width,)


def decoder(
    prefix: str, width: int, inner: int, layers: int, kv: int, vocabulary: int, qkv_bias: bool
) -> Shapes:
    yield f"{prefix}embed_tokens.weight", (vocabulary, width)
    for number in range(layers):
        layer = f"{prefix}layers.{number}."
        yield from linear(f"{layer}self_attn.q_proj", width, width, qkv_bias)
        yield from linear(f"{layer}self_attn.k_proj", width, kv, qkv_bias)
        yield from linear(f"{layer}self_attn.v_proj", width, kv, qkv_bias)
        yield from linear(f"{layer}self_attn.o_proj", width, width, False)
        yield from linear(f"{layer}mlp.gate_proj", width, inner, False)
        yield from linear(f"{layer}mlp.up_proj", width, inner, False)
        yield from linear(f"{layer}mlp.down_proj", inner, width, False)
        yield from norm(f"{layer}input_layernorm", width, False)
        yield from norm(f"{layer}post_attention_layernorm", width, False)
    yield from norm(f"{prefix}norm", width, False)


def llava(width: int, inner: int, layers: int, kv: int, newline: bool = False) -> Shapes:
    if newline:
        yield "image_newline", (width,)
    clip = "vision_tower.vision_model."
    yield f"{clip}embeddings.class_embedding", (1024,)
    yield f"{clip}embeddings.patch_embedding.weight", (1024, 3, 14, 14)
    yield f"{clip}embeddings.position_embedding.weight", (577, 1024)
    yield from norm(f"{clip}pre_layrnorm", 1024)
    for number in range(24):
        layer = f"{clip}encoder.layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}self_attn.{name}", 1024, 1024)
        yield from linear(f"{layer}mlp.fc1", 1024, 4096)
        yield from linear(f"{layer}mlp.fc2", 4096, 1024)
        yield from norm(f"{layer}layer_norm1", 1024)
        yield from norm(f"{layer}layer_norm2", 1024)
    yield from norm(f"{clip}post_layernorm", 1024)
    yield from linear("multi_modal_projector.linear_1", 1024, width)
    yield from linear("multi_modal_projector.linear_2", width, width)
    yield from decoder("language_model.model.", width, inner, layers, kv, 32064, False)
    yield from linear("language_model.lm_head", width, 32064, False)


def qwen(
    width: int, inner: int, layers: int, kv: int, vocabulary: int, tied: bool, second: bool
) -> Shapes:
    yield "visual.patch_embed.proj.weight", (1280, 3, 2, 14, 14)
    for number in range(32):
        block = f"visual.blocks.{number}."
        yield from linear(f"{block}attn.qkv", 1280, 3 * 1280)
        yield from linear(f"{block}attn.proj", 1280, 1280)
        if second:
            yield from linear(f"{block}mlp.fc1", 1280, 5120)
            yield from linear(f"{block}mlp.fc2", 5120, 1280)
        else:
            yield from linear(f"{block}mlp.gate_proj", 1280, 3420)
            yield from linear(f"{block}mlp.up_proj", 1280, 3420)
            yield from linear(f"{block}mlp.down_proj", 3420, 1280)
        yield from norm(f"{block}norm1", 1280, second)
        yield from norm(f"{block}norm2", 1280, second)
    yield from norm("visual.merger.ln_q", 1280, second)
    yield from linear("visual.merger.mlp.0", 5120, 5120)
    yield from linear("visual.merger.mlp.2", 5120, width)
    yield from decoder("model.", width, inner, layers, kv, vocabulary, True)
    if not tied:
        yield from linear("lm_head", width, vocabulary, False)


LAYOUTS: dict[str, Callable[[], Shapes]] = {
    "llava-hf/llava-1.5-7b-hf": lambda: llava(4096, 11008, 32, 4096),
    "llava-hf/llava-1.5-13b-hf": lambda: llava(5120, 13824, 40, 5120),
    "llava-hf/llava-v1.6-vicuna-7b-hf": lambda: llava(4096, 11008, 32, 4096, newline=True),
    "llava-hf/llava-v1.6-mistral-7b-hf": lambda: llava(4096, 14336, 32, 1024, newline=True),
    "Qwen/Qwen2-VL-2B-Instruct": lambda: qwen(1536, 8960, 28, 256, 151_936, True, True),
    "Qwen/Qwen2-VL-7B-Instruct": lambda: qwen(3584, 18944, 28, 512, 152_064, False, True),
    "Qwen/Qwen2.5-VL-3B-Instruct": lambda: qwen(2048, 11008, 36, 256, 151_936, True, False),
    "Qwen/Qwen2.5-VL-7B-Instruct": lambda: qwen(3584, 18944, 28, 512, 152_064, False, False),
}

every_checkpoint = pytest.mark.parametrize("name", published_ids())


@functools.cache
def on_meta(name: str) -> Any:
    """The model as transformers makes it from the config, with shapes but no numbers."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    found = published(name)
    assert found is not None
    config = transformers.AutoConfig.from_pretrained(found.folder)
    with torch.device("meta"):
        module = transformers.AutoModelForImageTextToText.from_config(config)
    module.tie_weights()
    return module.eval()


def test_the_study_is_covered() -> None:
    assert set(published_ids()) == set(TOTALS) == set(LAYOUTS)


@every_checkpoint
def test_parameters_are_those_of_the_checkpoint(name: str) -> None:
    module = on_meta(name)
    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    state = module.state_dict()
    expected = {}
    for key, shape in LAYOUTS[name]():
        renamed, _ = rename_source_key(key, renamings, [], module.base_model_prefix, state)
        assert renamed not in expected
        expected[renamed] = shape
    found = {key: tuple(parameter.shape) for key, parameter in module.named_parameters()}
    assert found == expected
    assert sum(parameter.numel() for parameter in module.parameters()) == TOTALS[name]


@every_checkpoint
def test_parameters_by_part_need_no_module(name: str) -> None:
    module, architecture = on_meta(name), HfVlm(HfVlmConfig(source=name)).architecture()

    def count(*parts: str) -> int:
        seen = {id(p): p.numel() for part in parts for p in module.get_submodule(part).parameters()}
        return sum(seen.values())

    if architecture.family.startswith("qwen"):
        merger = count("model.visual.merger")
        vision = {"vision tower": count("model.visual") - merger, "merger": merger}
    else:
        newline = getattr(module.model, "image_newline", torch.empty(0))
        projector = count("model.multi_modal_projector") + newline.numel()
        vision = {"vision tower": count("model.vision_tower"), "projector": projector}
    both = count("model.language_model", "lm_head")
    language = {
        "decoder": count("model.language_model"),
        "head": both - count("model.language_model"),
    }
    assert architecture.parameters == {**vision, **language}
    assert sum(architecture.parameters.values()) == TOTALS[name]
    assert architecture.dtype == str(module.dtype).removeprefix("torch.")


#: The block whose attention tells what a tower looks at: the last one, but for CLIP's, of which
#: the last layer is not used.
LOOKING = {
    "llava": "model.vision_tower.encoder.layers.22",
    "llava_next": "model.vision_tower.encoder.layers.22",
    "qwen2_vl": "model.visual.blocks.31",
    "qwen2_5_vl": "model.visual.blocks.31",
}


@every_checkpoint
def test_anatomy_finds_every_part(name: str) -> None:
    module, architecture = on_meta(name), HfVlm(HfVlmConfig(source=name)).architecture()
    anatomy = find_anatomy(module)
    assert anatomy is not None
    decoder = architecture.decoder
    assert anatomy.decoder is module.model.language_model
    assert len(anatomy.layers) == decoder.layers
    assert {type(layer).__name__.endswith("DecoderLayer") for layer in anatomy.layers} == {True}
    assert anatomy.rotary.inv_freq.shape == (decoder.head_size // 2,)
    assert anatomy.vision is not None
    assert anatomy.vision.block is module.get_submodule(LOOKING[architecture.family])
    head = module.get_submodule(anatomy.head)
    assert (head.in_features, head.out_features) == (decoder.hidden_size, decoder.vocabulary)
    # Together with the decoder and the head, the vision parts are the whole model.
    parts = [module.get_submodule(part) for part in anatomy.vision_parts]
    parts += [anatomy.decoder, head]
    covered = {id(parameter) for part in parts for parameter in part.parameters()}
    left = {key for key, parameter in module.named_parameters() if id(parameter) not in covered}
    assert left == ({"model.image_newline"} if architecture.family == "llava_next" else set())
    image_tokens = {"llava": 32000, "llava_next": 32000, "qwen2_vl": 151655, "qwen2_5_vl": 151655}
    assert anatomy.image_token_id == image_tokens[architecture.family]
