"""Model `llava-med`: LLaVA-Med, from its original checkpoint or a converted one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field
from stabfw.components import LoadedModel, LoadRequest, Model
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from stabfw_models.hf_vlm.files import Checkpoint, locate
from stabfw_models.llava_med.original import MODEL_TYPE, Original, original

PUBLISHED: Final = "microsoft/llava-med-v1.5-mistral-7b"

#: Sizes of the published checkpoint as it would be once it is converted: those of Mistral 7B and
#: of CLIP ViT-L/14 at 336 pixels, of which its authors say that it consists.
_CONVERTED: Final = Path(__file__).parent / "converted"


class LlavaMedConfig(HfVlmConfig):
    """Config of `llava-med`."""

    vision_tower: str = Field(
        default="",
        description="Directory or hub id of the CLIP tower of an original checkpoint; the one that "
        "its config names, if empty.",
    )


class LlavaMed(HfVlm):
    """LLaVA-Med v1.5 (Mistral 7B), a LLaVA-1.5 trained on biomedical figures and questions.

    Li et al., 2023, "LLaVA-Med: Training a Large Language-and-Vision Assistant for Biomedicine in
    One Day" (arXiv 2306.00890). The hub's `microsoft/llava-med-v1.5-mistral-7b` has the layout of
    the authors' code; it is converted while it is loaded, and nothing is written. Pictures are
    padded to squares as its config asks, and the prompt is `[INST] <image>\\nQUESTION [/INST]`.

    Only synthetic checkpoints in that layout were run for the tests.
    """

    config_cls: ClassVar[type[HfVlmConfig]] = LlavaMedConfig
    config: LlavaMedConfig
    families: ClassVar[frozenset[str]] = frozenset({"llava"})

    def checkpoint(self) -> Checkpoint:
        """Find the checkpoint, and the CLIP tower of an original one.

        Raises:
            DataError: If one of them is not there, or it is another kind of model.
        """
        return self._accepted(self._found(self.config.source, self.config.revision))

    def configs(self) -> Checkpoint:
        """Find the same, or the sizes of the published checkpoint, to plan by.

        Raises:
            DataError: If it is another one that is not on this machine.
        """
        try:
            return self.checkpoint()
        except DataError:
            if self.config.source != PUBLISHED or self.config.revision:
                raise
            return Checkpoint(_CONVERTED, "", PUBLISHED)

    def located(self, request: LoadRequest) -> Checkpoint:
        """Find what a request asks for."""
        return self._found(request.source, request.revision)

    def open(self, request: LoadRequest) -> AbstractContextManager[LoadedModel]:
        """Load the model, converting it if it has the original layout."""
        found = self.located(request)
        if not isinstance(found, Original):
            return super().open(request)
        from stabfw_models.hf_vlm.loaded import opened
        from stabfw_models.llava_med.conversion import ORIGINAL

        return opened(request, found, ORIGINAL)

    def _found(self, source: str, revision: str) -> Checkpoint:
        found = locate(source, revision)
        if found.config()["model_type"] != MODEL_TYPE:
            return found
        return original(found, self.config.vision_tower)


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer `llava-med`."""
    register("llava-med", LlavaMed)
