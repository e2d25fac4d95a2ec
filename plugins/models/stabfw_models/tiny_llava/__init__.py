"""Model `tiny-llava`: the embedded two-million-parameter LLaVA, so that everything runs offline."""

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


class TinyLlavaConfig(HfModelConfig):
    """Config of `tiny-llava`."""

    weights: Path | None = Field(
        default=None,
        description="Another directory with weights of this kind, such as your own training.",
    )


class TinyLlava(HfModel[TinyLlavaConfig]):
    """A real LLaVA (CLIP tower, projector, Llama) trained on generated scenes of shapes."""

    config_cls: ClassVar[type[TinyLlavaConfig]] = TinyLlavaConfig
    notice = (
        "tiny-llava was trained on small drawings: it demonstrates the tool and says nothing about "
        "real vision-language models."
    )

    def checkpoint(self) -> Checkpoint:
        """Find the embedded weights, or those in `config.weights`."""
        folder = self.config.weights or WEIGHTS
        if not (folder / "config.json").is_file():
            raise DataError(
                f"tiny-llava: no weights in {folder}; reinstall stabfw, or train them with "
                "`python -m stabfw_models.tiny_llava.training`"
            )
        return locate(str(folder), "")


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer `tiny-llava`."""
    register("tiny-llava", TinyLlava)
