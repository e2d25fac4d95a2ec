"""Accelerator `uniform-drop`: keep every n-th visual token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.components.reduction import Tally, reduce_visual_tokens, why_not
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.components.patch import Patch


class UniformDropConfig(AcceleratorConfig):
    """Config of `uniform-drop`."""

    layer: int = Field(2, ge=0, description="Tokens are dropped before this decoder layer.")
    every: int = Field(2, ge=1, description="One of so many visual tokens is kept.")


class UniformDrop(Accelerator[UniformDropConfig]):
    """Keeps every n-th visual token, whatever it shows."""

    config_cls: ClassVar[type[UniformDropConfig]] = UniformDropConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.VISUAL_TOKENS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy and more layers than `layer`."""
        return why_not(info, self.config.layer)

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop tokens before `layer` until the patch ends."""
        from stabfw_example.method import every_nth

        select = every_nth(self.config.every)
        self._tally = reduce_visual_tokens(model, {self.config.layer: select}, patch)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many visual tokens there were on average, and how many were kept."""
        return (self._tally or Tally()).report()

    def control(self) -> tuple[str, Mapping[str, Any]]:
        """Dropping as many tokens at random."""
        return "random-drop", {"layer": self.config.layer, "keep_ratio": 1 / self.config.every}


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `uniform-drop`."""
    register("uniform-drop", UniformDrop)
