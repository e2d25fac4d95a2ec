"""Tiny random models of several families, with batches of rows that differ in every length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf
from stabfw.components import (
    Encoded,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Prediction,
    Prompt,
)
from stabfw.components.anatomy import Anatomy
from stabfw_models.hf_vlm.loaded import find_anatomy

STUDIED = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
FAMILIES = (*STUDIED, "idefics3", "internvl", "smolvlm")
IMAGE, PAD, LAYERS = 199, 0, 4
_IMAGE_SIZES = ((150, 100), (84, 84), (100, 150))
_GRIDS = ((4, 6), (4, 4), (6, 6))


class Bare(LoadedModel):
    """A model without a processor: tests make its inputs by hand."""

    module: Any

    def __init__(self, module: Any) -> None:
        self.module = module
        self.info = ModelInfo(module.config.model_type, LAYERS, has_anatomy=True)
        self.request = LoadRequest("random")

    @property
    def anatomy(self) -> Anatomy | None:
        return find_anatomy(self.module)

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        raise NotImplementedError

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        raise NotImplementedError

    def batch_of(self, rows: Sequence[int]) -> Encoded:
        """Encode some of the three rows 0, 1, 2, padded on the left."""
        pixels = [_pixels(self.info.family, row) for row in rows]
        counts = [self._visual_tokens(one) for one in pixels]
        texts = [
            [1, 5 + row, 6] + [IMAGE] * count + [20 + row + i for i in range(4 + 3 * row)]
            for row, count in zip(rows, counts, strict=True)
        ]
        length = max(map(len, texts))
        ids = torch.tensor([[PAD] * (length - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (length - len(text)) + [1] * len(text) for text in texts])
        inputs = {"input_ids": ids, "attention_mask": mask}
        inputs |= {name: torch.cat([one[name] for one in pixels]) for name in pixels[0]}
        if self.info.family.startswith("qwen"):
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        return Encoded(tuple(f"row {row}" for row in rows), inputs)

    def _visual_tokens(self, pixels: dict[str, torch.Tensor]) -> int:
        with torch.inference_mode():
            return len(self.module.get_image_features(**pixels).pooler_output[0])

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Logits of the next token, of shape (batch, vocabulary)."""
        self.batch, self.token_depths = encoded, ()
        try:
            with torch.inference_mode():
                logits: torch.Tensor = self.module(**encoded.inputs, use_cache=False).logits[:, -1]
        finally:
            self.batch = None
        return logits

    def continue_(self, encoded: Encoded, **options: Any) -> list[list[int]]:
        """Six greedy tokens for each row."""
        self.batch, self.token_depths = encoded, ()
        config = hf.GenerationConfig(
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=PAD,
            # Random weights may answer with the placeholder, which then asks for a picture.
            suppress_tokens=[IMAGE],
            **options,
        )
        try:
            with torch.inference_mode():
                out = self.module.generate(**encoded.inputs, generation_config=config)
        finally:
            self.batch = None
        tokens: list[list[int]] = out[:, encoded.inputs["input_ids"].shape[1] :].tolist()
        return tokens


def build(family: str, attention: str) -> Bare:
    """Make a model of a family; large random weights, so that its answers differ."""
    torch.manual_seed(0)
    text: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.15,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    makers = {
        "llava": _llava,
        "llava_next": _llava_next,
        "qwen2_vl": _qwen,
        "qwen2_5_vl": _qwen,
        "idefics3": _idefics,
        "smolvlm": _idefics,
        "internvl": _internvl,
    }
    cls, config = makers[family](family, text)
    module = cls._from_config(config, attn_implementation=attention).eval()
    module.generation_config.eos_token_id = None
    return Bare(module)


def _clip() -> hf.CLIPVisionConfig:
    return hf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        projection_dim=16,
    )


def _llava(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.LlavaConfig(
        vision_config=_clip(),
        text_config=hf.LlamaConfig(**text),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    return hf.LlavaForConditionalGeneration, config


def _llava_next(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.LlavaNextConfig(
        vision_config=_clip(),
        text_config=hf.LlamaConfig(**text),
        image_token_id=IMAGE,
        image_seq_length=16,
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )
    return hf.LlavaNextForConditionalGeneration, config


def _qwen(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": 14}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        cls, make = hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLConfig
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        cls, make = hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLConfig
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = make(
        text_config=text | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=198,
        vision_start_token_id=197,
        vision_end_token_id=196,
    )
    return cls, config


def _idefics(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    cls: Any = hf.Idefics3ForConditionalGeneration
    make: Any = hf.Idefics3Config
    if family == "smolvlm":
        cls, make = hf.SmolVLMForConditionalGeneration, hf.SmolVLMConfig
    config = make(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 7,
        },
        text_config=hf.LlamaConfig(**text),
        image_token_id=IMAGE,
        pad_token_id=PAD,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    return cls, config


def _internvl(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [56, 56],
            "patch_size": [7, 7],
        },
        text_config=hf.Qwen2Config(**text),
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return hf.InternVLForConditionalGeneration, config


def _pixels(family: str, row: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(row)
    if family == "internvl":
        return {"pixel_values": torch.randn(1, 3, 56, 56, generator=noise)}
    if family in ("idefics3", "smolvlm"):
        return {"pixel_values": torch.randn(1, 1, 3, 56, 56, generator=noise)}
    if family == "llava":
        return {"pixel_values": torch.randn(1, 3, 56, 56, generator=noise)}
    if family == "llava_next":
        return {
            "pixel_values": torch.randn(1, 5, 3, 56, 56, generator=noise),
            "image_sizes": torch.tensor([_IMAGE_SIZES[row]]),
        }
    height, width = _GRIDS[row]
    return {
        "pixel_values": torch.randn(height * width, 3 * 2 * 14 * 14, generator=noise),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }
