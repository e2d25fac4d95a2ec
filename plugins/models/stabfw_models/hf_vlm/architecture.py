"""Tell from a checkpoint's config files, without torch, what its parts weigh and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stabfw.components.costs import (
    Architecture,
    Decoder,
    Flops,
    ImageCost,
    attention,
    linear,
)
from stabfw.errors import DataError, UnsupportedError

from stabfw_models.hf_vlm.devices import stated_dtype
from stabfw_models.hf_vlm.files import (
    DEFAULT_LAYERS,
    IMAGE_PROCESSOR_FILES,
    Checkpoint,
)

# What transformers takes where a config leaves a size out, as those of LLaVA do.
_TEXT_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": DEFAULT_LAYERS["llama"],
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": DEFAULT_LAYERS["mistral"],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": {},
}
_FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "qwen2_vl")
_MIN_PIXELS, _MAX_PIXELS = 56 * 56, 28 * 28 * 1280
_CHANNELS = 3


def read_architecture(checkpoint: Checkpoint, limits: Mapping[str, int]) -> Architecture:
    """Read the sizes of a model.

    Args:
        checkpoint: Its files; weights need not be among them.
        limits: `min_pixels` and `max_pixels` that replace those of its image processor.

    Raises:
        DataError: If a size is missing.
        UnsupportedError: If no formula is known for the model or for a part of it.
    """
    config = checkpoint.config()
    family = config["model_type"]
    if family not in _FAMILIES:
        raise UnsupportedError(
            f"{checkpoint.name}: no formula for the costs of a {family} model; there is one for "
            f"{', '.join(_FAMILIES)}"
        )
    try:
        if family.startswith("qwen"):
            return _read_qwen(checkpoint, config, limits)
        return _read_llava(checkpoint, config)
    except KeyError as error:
        raise DataError(f"{checkpoint.name}: config.json states no {error}") from error


def _read_llava(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Architecture:
    stated, vision = config["text_config"], config["vision_config"]
    kinds = (stated["model_type"], vision["model_type"])
    if kinds[0] not in _TEXT_DEFAULTS or kinds[1] != "clip_vision_model":
        raise UnsupportedError(
            f"{checkpoint.name}: no formula for a LLaVA of {kinds[1]} and {kinds[0]}; there is one "
            f"for clip_vision_model and {', '.join(_TEXT_DEFAULTS)}"
        )
    text = {**_TEXT_DEFAULTS[kinds[0]], **stated}
    taken = config.get("vision_feature_layer", -2)
    tower = _Clip(
        width=vision["hidden_size"],
        intermediate=vision["intermediate_size"],
        layers=vision["num_hidden_layers"],
        side=vision["image_size"] // vision["patch_size"],
        patch=vision["patch_size"],
        keeps_cls=config.get("vision_feature_select_strategy", "default") == "full",
        projected=text["hidden_size"],
        feature_layers=1 if isinstance(taken, int) else len(taken),
    )
    bias = config.get("multimodal_projector_bias", True)
    projector, image = tower.projector_parameters(bias), tower.image
    if config["model_type"] == "llava_next":
        # The learned token that ends a row of patches.
        projector += text["hidden_size"]
        image = partial(_tiled, tower, vision["image_size"], config["image_grid_pinpoints"])
    return _architecture(
        config, text, {"vision tower": tower.parameters(), "projector": projector}, image
    )


def _read_qwen(
    checkpoint: Checkpoint, config: Mapping[str, Any], limits: Mapping[str, int]
) -> Architecture:
    text = {"model_type": "qwen2", **(config.get("text_config") or config)}
    vision = config["vision_config"]
    second = config["model_type"] == "qwen2_vl"
    width = vision["embed_dim" if second else "hidden_size"]
    tower = _QwenTower(
        width=width,
        intermediate=width * vision["mlp_ratio"] if second else vision["intermediate_size"],
        gated=not second,
        layers=vision["depth"],
        full_layers=vision["depth"] if second else len(vision["fullatt_block_indexes"]),
        window=0 if second else vision["window_size"],
        patch=vision["patch_size"],
        frames=vision["temporal_patch_size"],
        merge=vision["spatial_merge_size"],
        merged=vision["hidden_size" if second else "out_hidden_size"],
        **_pixel_limits(checkpoint, limits),
    )
    parts = {"vision tower": tower.parameters(), "merger": tower.merger_parameters()}
    return _architecture(config, text, parts, tower.image)


def _architecture(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, int], image: Any
) -> Architecture:
    heads = text["num_attention_heads"]
    decoder = Decoder(
        layers=text["num_hidden_layers"],
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_size=text.get("head_dim") or text["hidden_size"] // heads,
        vocabulary=text["vocab_size"],
        positions=text["max_position_embeddings"],
    )
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    head = 0 if tied else decoder.hidden_size * decoder.vocabulary
    return Architecture(
        family=config["model_type"],
        dtype=stated_dtype(config),
        parameters={**vision, "decoder": _decoder_parameters(decoder, text), "head": head},
        decoder=decoder,
        image=image,
    )


def _decoder_parameters(decoder: Decoder, text: Mapping[str, Any]) -> int:
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    width, kv_width = decoder.heads * decoder.head_size, decoder.kv_heads * decoder.head_size
    layer = 2 * hidden * (width + kv_width) + 3 * hidden * inner + 2 * hidden
    if text["model_type"].startswith("qwen2"):
        layer += width + 2 * kv_width
    elif text.get("attention_bias"):
        layer += width + 2 * kv_width + hidden
    if text.get("mlp_bias"):
        layer += 2 * inner + hidden
    return decoder.vocabulary * hidden + decoder.layers * layer + hidden


def _pixel_limits(checkpoint: Checkpoint, limits: Mapping[str, int]) -> dict[str, int]:
    stated: dict[str, Any] = {}
    for name in reversed(IMAGE_PROCESSOR_FILES):
        if (checkpoint.folder / name).exists():
            content = checkpoint.read_json(name)
            stated |= content.get("image_processor") or content
    size = stated.get("size") or {}
    found = {
        "min_pixels": stated.get("min_pixels") or size.get("shortest_edge") or _MIN_PIXELS,
        "max_pixels": stated.get("max_pixels") or size.get("longest_edge") or _MAX_PIXELS,
    }
    return {**found, **limits}


@dataclass(frozen=True)
class _Clip:
    """A CLIP tower for square pictures of `side` x `side` patches, and LLaVA's projector."""

    width: int
    intermediate: int
    layers: int
    side: int
    patch: int
    keeps_cls: bool
    projected: int
    feature_layers: int

    def parameters(self) -> int:
        width, inner = self.width, self.intermediate
        embeddings = width * (1 + _CHANNELS * self.patch**2 + self.side**2 + 1)
        layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        return embeddings + self.layers * layer + 4 * width

    def projector_parameters(self, bias: bool) -> int:
        inputs, outputs = self.feature_layers * self.width, self.projected
        return inputs * outputs + outputs * outputs + (2 * outputs if bias else 0)

    def tokens(self) -> int:
        return self.side**2 + int(self.keeps_cls)

    def tiles(self, tiles: int) -> dict[str, Flops]:
        tokens, width = self.side**2 + 1, self.width
        # All layers run, also those after the one whose states are taken.
        layer = (
            linear(tokens, width, width) * 4
            + attention(tokens, tokens, width)
            + linear(tokens, width, self.intermediate) * 2
        )
        patches = linear(self.side**2, _CHANNELS * self.patch**2, width)
        projector = linear(self.tokens(), self.feature_layers * width, self.projected) + linear(
            self.tokens(), self.projected, self.projected
        )
        return {
            "vision tower": (patches + layer * self.layers) * tiles,
            "projector": projector * tiles,
        }

    def image(self, width: int, height: int) -> ImageCost:
        return ImageCost(self.tokens(), self.tiles(1))


def _tiled(
    tower: _Clip, side: int, grids: Sequence[Sequence[int]], width: int, height: int
) -> ImageCost:
    """LLaVA-NeXT: the whole picture, and tiles of it without the padding around it."""
    grid_height, grid_width = _best_grid(grids, width, height)
    rows, columns = grid_height // side, grid_width // side
    patch_rows, patch_columns = rows * tower.side, columns * tower.side
    # Rounded as transformers does; padding is cut off in equal parts on both sides.
    if width * patch_rows > height * patch_columns:
        used = int(round(height * (patch_columns / width), 7))
        patch_rows -= (patch_rows - used) // 2 * 2
    else:
        used = int(round(width * (patch_rows / height), 7))
        patch_columns -= (patch_columns - used) // 2 * 2
    if not patch_rows or not patch_columns:
        raise DataError(
            f"a picture of {width}x{height} pixels leaves no row of patches; make it less narrow"
        )
    newlines = patch_rows
    tokens = tower.tokens() + patch_rows * patch_columns + newlines
    return ImageCost(tokens, tower.tiles(1 + rows * columns))


def _best_grid(grids: Sequence[Sequence[int]], width: int, height: int) -> tuple[int, int]:
    """The grid that keeps most of the picture's pixels, then the one that is padded least."""

    def fit(grid: Sequence[int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1]

    rows, columns = max(grids, key=fit)
    return rows, columns


@dataclass(frozen=True)
class _QwenTower:
    """The tower of Qwen2-VL and Qwen2.5-VL; `window` is 0 where all layers see everything."""

    width: int
    intermediate: int
    gated: bool
    layers: int
    full_layers: int
    window: int
    patch: int
    frames: int
    merge: int
    merged: int
    min_pixels: int
    max_pixels: int

    def parameters(self) -> int:
        width, inner = self.width, self.intermediate
        # Qwen2.5-VL has RMS norms, without biases, and a second matrix into its gated network.
        norms = (1 if self.gated else 2) * 2 * width
        mlp = (3 if self.gated else 2) * width * inner + (2 if self.gated else 1) * inner + width
        layer = 4 * (width * width + width) + mlp + norms
        return self._patch_values() * width + self.layers * layer

    def merger_parameters(self) -> int:
        inner = self.width * self.merge**2
        norm = (1 if self.gated else 2) * self.width
        return norm + inner * inner + inner + inner * self.merged + self.merged

    def image(self, width: int, height: int) -> ImageCost:
        rows, columns = self._grid(width, height)
        tokens = rows * columns * self.merge**2
        pairs = self.full_layers * tokens**2
        pairs += (self.layers - self.full_layers) * self._window_pairs(rows, columns)
        mlp = linear(tokens, self.width, self.intermediate) * (3 if self.gated else 2)
        layer = linear(tokens, self.width, 4 * self.width) + mlp
        tower = linear(tokens, self._patch_values(), self.width) + layer * self.layers
        inner = self.width * self.merge**2
        merger = linear(rows * columns, inner, inner) + linear(rows * columns, inner, self.merged)
        return ImageCost(
            rows * columns,
            {"vision tower": tower + attention(pairs, 1, self.width), "merger": merger},
        )

    def _patch_values(self) -> int:
        return _CHANNELS * self.frames * self.patch**2

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of merged patches of a picture, resized to the limits of its area."""
        if max(width, height) > 200 * min(width, height):
            raise DataError(
                f"a picture of {width}x{height} pixels is too narrow: one side may be 200 times "
                "the other at most"
            )
        unit = self.patch * self.merge
        rows, columns = round(height / unit), round(width / unit)
        area = rows * columns * unit**2
        if area > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / unit))
            columns = max(1, math.floor(width / shrink / unit))
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * grow / unit)
            columns = math.ceil(width * grow / unit)
        return rows, columns

    def _window_pairs(self, rows: int, columns: int) -> int:
        """Pairs of patches that share a window, over all windows."""
        if not self.window:
            return 0
        side = self.window // self.merge // self.patch
        squares = [(length // side) * side**2 + (length % side) ** 2 for length in (rows, columns)]
        return squares[0] * squares[1] * self.merge**4
