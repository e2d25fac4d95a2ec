"""Models `llava` and `llava-next`: a CLIP tower, a projector and a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Model
from stabfw.registry import hookimpl

from stabfw_models.hf_vlm import HfVlm


class Llava(HfVlm):
    """LLaVA-1.5: every picture becomes the same number of visual tokens, 576 in the 7B model.

    Liu et al., 2024, "Improved Baselines with Visual Instruction Tuning" (arXiv 2310.03744).
    """

    families: ClassVar[frozenset[str]] = frozenset({"llava"})
    typical: ClassVar[Mapping[str, Any] | None] = {"source": "llava-hf/llava-1.5-7b-hf"}


class LlavaNext(HfVlm):
    """LLaVA-NeXT: large pictures are seen whole and in tiles, so their tokens vary in number.

    Liu et al., 2024, "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge".
    """

    families: ClassVar[frozenset[str]] = frozenset({"llava_next"})
    typical: ClassVar[Mapping[str, Any] | None] = {"source": "llava-hf/llava-v1.6-vicuna-7b-hf"}


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer both."""
    register("llava", Llava)
    register("llava-next", LlavaNext)
