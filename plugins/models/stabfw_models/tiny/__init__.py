"""Models `tiny-*`: trained models of two million parameters, so that everything runs offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import Model
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_models.hf_vlm import HfModel, HfModelConfig
from stabfw_models.hf_vlm.files import Checkpoint, locate

WEIGHTS = Path(__file__).parent / "weights"


class TinyConfig(HfModelConfig):
    """Config of the embedded models."""

    weights: Path | None = Field(
        default=None,
        description="Another directory with weights of this kind, such as your own training.",
    )


class Tiny(HfModel[TinyConfig]):
    """A trained model that is installed with the package.

    Attributes:
        embedded: Its name, which is also that of the folder of its weights.
    """

    config_cls: ClassVar[type[TinyConfig]] = TinyConfig
    embedded: ClassVar[str]
    notice = (
        "the tiny models were trained on small drawings: they demonstrate the tool and say nothing "
        "about real vision-language models."
    )

    def checkpoint(self) -> Checkpoint:
        """Find the embedded weights, or those in `config.weights`."""
        folder = self.config.weights or WEIGHTS / self.embedded
        if not (folder / "config.json").is_file():
            raise DataError(
                f"{self.embedded}: no weights in {folder}; reinstall stabfw, or train them with "
                f"`python -m stabfw_models.tiny.training --model {self.embedded}`"
            )
        return locate(str(folder), "")


class TinyLlava(Tiny):
    """A LLaVA-1.5 (CLIP tower, projector, Llama) trained on generated scenes of shapes."""

    embedded = "tiny-llava"


class TinyLlavaNext(Tiny):
    """A LLaVA-NeXT, which sees pictures whole and in tiles, trained on scenes of several sizes."""

    embedded = "tiny-llava-next"


class TinyQwen2Vl(Tiny):
    """A Qwen2-VL, which takes pictures of any size, trained on scenes of several sizes."""

    embedded = "tiny-qwen2-vl"


class TinyQwen25Vl(Tiny):
    """A Qwen2.5-VL, with windows in its vision tower, trained on scenes of several sizes."""

    embedded = "tiny-qwen2.5-vl"


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer all four."""
    for model in (TinyLlava, TinyLlavaNext, TinyQwen2Vl, TinyQwen25Vl):
        register(model.embedded, model)
