"""Models `qwen2-vl` and `qwen2.5-vl`: pictures keep their proportions and are not cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator
from stabfw.components import Model
from stabfw.registry import hookimpl

from stabfw_models.hf_vlm import HfVlm, HfVlmConfig


class QwenVlConfig(HfVlmConfig):
    """Config of `qwen2-vl` and `qwen2.5-vl`."""

    min_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Smaller pictures are enlarged to this area; the checkpoint's own if null.",
    )
    max_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Larger pictures are reduced to this area; the checkpoint's own if null.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> QwenVlConfig:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) exceeds max_pixels")
        return self


class QwenVl(HfVlm):
    """What both have in common: the limits of a picture's size, which set its visual tokens."""

    config_cls: ClassVar[type[HfVlmConfig]] = QwenVlConfig
    config: QwenVlConfig

    def pixel_limits(self) -> Mapping[str, int]:
        """Those of the config that are set."""
        return self.config.model_dump(include={"min_pixels", "max_pixels"}, exclude_none=True)


class Qwen2Vl(QwenVl):
    """Qwen2-VL: any resolution, rotary positions in time, height and width.

    Wang et al., 2024, "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any
    Resolution" (arXiv 2409.12191).
    """

    families: ClassVar[frozenset[str]] = frozenset({"qwen2_vl"})
    typical: ClassVar[Mapping[str, Any] | None] = {"source": "Qwen/Qwen2-VL-7B-Instruct"}


class Qwen25Vl(QwenVl):
    """Qwen2.5-VL: as Qwen2-VL, with attention in windows in most layers of the vision tower.

    Bai et al., 2025, "Qwen2.5-VL Technical Report" (arXiv 2502.13923).
    """

    families: ClassVar[frozenset[str]] = frozenset({"qwen2_5_vl"})
    typical: ClassVar[Mapping[str, Any] | None] = {"source": "Qwen/Qwen2.5-VL-7B-Instruct"}


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer both."""
    register("qwen2-vl", Qwen2Vl)
    register("qwen2.5-vl", Qwen25Vl)
