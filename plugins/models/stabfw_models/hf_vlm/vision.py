"""Where visual tokens are from, and what the vision tower looks at."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from stabfw.components.anatomy import BlockCall, Vision

from stabfw_models.hf_vlm.files import CLIP


def find_vision(core: Any) -> Vision | None:
    """Tell it for the inner model of a family, or None for a family not known."""
    family = core.config.model_type
    if family.startswith(("qwen2_vl", "qwen2_5_vl")):
        return _Qwen(core)
    if family not in ("llava", "llava_next"):
        return None
    layer = core.config.vision_feature_layer
    tower = core.config.vision_config.model_type
    strategy = core.config.vision_feature_select_strategy
    if tower != CLIP or strategy != "default" or not isinstance(layer, int):
        return None
    return _Llava(core, layer) if family == "llava" else _LlavaNext(core, layer)


class _Clip(Vision):
    """A CLIP tower, in which the class token looks at the patches."""

    def __init__(self, core: Any, layer: int) -> None:
        vision = core.config.vision_config
        self._core = core
        self._side = vision.image_size // vision.patch_size
        # The states that become features are those behind this layer; 0 is before the first.
        self.block = core.vision_tower.encoder.layers[layer if layer < 0 else max(0, layer - 1)]

    @abstractmethod
    def numbers(self, inputs: Mapping[str, Any], tiles: int) -> torch.Tensor:
        """Number, among the patches of all tiles, that each visual token stands for, or -1."""

    @abstractmethod
    def tiles(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """How many tiles each picture has, on the CPU."""

    def places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        tiles = self.tiles(inputs)
        numbers = self.numbers(inputs, int(tiles.sum()))
        pictures = torch.arange(len(tiles)).repeat_interleave(tiles)
        within = torch.cat([torch.arange(int(count)) for count in tiles])
        tile, patch = numbers // self._side**2, numbers % self._side**2
        told = [pictures[tile], within[tile], patch // self._side, patch % self._side]
        places = torch.stack(told, 1)
        mark = numbers < 0
        places[mark, 1:] = -1
        # A mark follows a patch of its own picture.
        real = torch.where(mark, 0, torch.arange(len(mark))).cummax(0).values
        places[:, 0] = places[real, 0]
        return places

    def scores(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        attention, states = self._states(call)
        query = self._heads(attention.q_proj(states[:, :1]))
        key = self._heads(attention.k_proj(states))
        shares = (query @ key.transpose(-1, -2) * attention.scale).softmax(-1)
        # Without the class token itself: (tiles, patches).
        return self._told(inputs, shares[:, :, 0, 1:].mean(1))

    def keys(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        attention, states = self._states(call)
        return self._told(inputs, self._heads(attention.k_proj(states[:, 1:])).transpose(1, 2))

    def _states(self, call: BlockCall) -> tuple[Any, torch.Tensor]:
        block: Any = self.block
        return block.self_attn, block.layer_norm1(call.hidden)

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """Split what is projected: (tiles, tokens, width) -> (tiles, heads, tokens, size)."""
        block: Any = self.block
        split = projected.view(*projected.shape[:2], -1, block.self_attn.head_dim)
        return split.transpose(1, 2).float()

    def _told(self, inputs: Mapping[str, Any], values: torch.Tensor) -> torch.Tensor:
        """Values of patches, (tiles, patches, ...), as values of visual tokens, (tokens, ...)."""
        flat = values.flatten(0, 1)
        numbers = self.numbers(inputs, len(values)).to(flat.device)
        told = flat[numbers]
        told[numbers < 0] = 0
        return told


class _Llava(_Clip):
    """One tile for each picture."""

    def numbers(self, inputs: Mapping[str, Any], tiles: int) -> torch.Tensor:
        return torch.arange(tiles * self._side**2)

    def tiles(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return torch.ones(len(inputs["pixel_values"]), dtype=torch.long)


class _LlavaNext(_Clip):
    """The whole picture and tiles of it, whose padding is cut off and whose rows are marked."""

    def numbers(self, inputs: Mapping[str, Any], tiles: int) -> torch.Tensor:
        patches = self._side**2
        # The model's own packing, of numbers in place of features.
        numbers = torch.arange(tiles * patches).view(tiles, patches, 1)
        packed, _ = self._core.pack_image_features(
            torch.split(numbers, self.tiles(inputs).tolist()),
            inputs["image_sizes"].cpu(),
            vision_feature_select_strategy="default",
            image_newline=torch.tensor([-1]),
        )
        return torch.cat(list(packed))[:, 0]

    def tiles(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        count = sys.modules[type(self._core).__module__].image_size_to_num_patches
        config = self._core.config
        side = config.vision_config.image_size
        return torch.tensor(
            [
                count(image_size=size, grid_pinpoints=config.image_grid_pinpoints, patch_size=side)
                for size in inputs["image_sizes"].cpu()
            ]
        )


class _Qwen(Vision):
    """A tower without a class token, several patches of which become one visual token."""

    def __init__(self, core: Any) -> None:
        self._tower = core.visual
        # Blocks that look through windows tell nothing of the picture as a whole.
        whole = getattr(core.config.vision_config, "fullatt_block_indexes", None) or [-1]
        self.block = self._tower.blocks[whole[-1]]

    def places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        merged = self._tower.spatial_merge_size
        told = []
        for picture, (frames, height, width) in enumerate(inputs["image_grid_thw"].tolist()):
            axes = (range(frames), range(height // merged), range(width // merged))
            grid = torch.cartesian_prod(*map(torch.tensor, axes)).view(-1, 3)
            told.append(torch.cat([torch.full_like(grid[:, :1], picture), grid], 1))
        return torch.cat(told)

    def scores(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        block: Any = self.block
        attention, code = block.attn, self._code()
        query, key = self._query_and_key(call)
        query, key = code.apply_rotary_pos_emb_vision(
            query, key, *call.given["position_embeddings"]
        )
        bounds = call.given["cu_seqlens"].tolist()
        told = []
        for begin, end in pairwise(bounds):
            # One head at a time: the square of a large picture's patches is large.
            heads = zip(query[begin:end].unbind(1), key[begin:end].unbind(1), strict=True)
            told.append(
                sum(
                    (q.float() @ k.float().T * attention.scaling).softmax(-1).mean(0)
                    for q, k in heads
                )
                / attention.num_heads
            )
        return self._told(inputs, torch.cat(told))

    def keys(self, inputs: Mapping[str, Any], call: BlockCall) -> torch.Tensor:
        return self._told(inputs, self._query_and_key(call)[1].float())

    def _code(self) -> Any:
        block: Any = self.block
        return sys.modules[type(block.attn).__module__]

    def _query_and_key(self, call: BlockCall) -> tuple[torch.Tensor, torch.Tensor]:
        """Both of shape (patches, heads, size)."""
        block: Any = self.block
        states = block.attn.qkv(block.norm1(call.hidden))
        query, key, _ = states.view(len(states), 3, block.attn.num_heads, -1).unbind(1)
        return query, key

    def _told(self, inputs: Mapping[str, Any], values: torch.Tensor) -> torch.Tensor:
        """Values of patches, as the tower orders them, as means for visual tokens."""
        merged = values.view(-1, self._tower.spatial_merge_size**2, *values.shape[1:]).mean(1)
        if not hasattr(self._tower, "fullatt_block_indexes"):
            return merged
        order, _ = self._code().get_vision_window_index(
            inputs["image_grid_thw"],
            spatial_merge_size=self._tower.spatial_merge_size,
            window_size=self._tower.window_size,
            patch_size=self._tower.patch_size,
        )
        return merged[order.argsort().to(merged.device)]
