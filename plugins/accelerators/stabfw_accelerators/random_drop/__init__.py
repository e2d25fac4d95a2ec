"""Accelerator `random-drop`: drop visual tokens at random, the control of every token reduction."""

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


class RandomDropConfig(AcceleratorConfig):
    """Config of `random-drop`."""

    layer: int = Field(
        default=2, ge=0, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )
    seed: int = Field(default=0, ge=0, description="Another seed keeps other tokens.")


class RandomDrop(Accelerator[RandomDropConfig]):
    """Keeps visual tokens at random.

    A method that ranks tokens has to beat this at the same layer and budget. Which tokens are
    kept depends on seed and instance id only, not on batch, order or worker.
    """

    config_cls: ClassVar[type[RandomDropConfig]] = RandomDropConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.VISUAL_TOKENS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy and more layers than `layer`."""
        return why_not(info, self.config.layer)

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop tokens before `layer` until the patch ends."""
        from stabfw_accelerators.random_drop.method import at_random

        select = at_random(self.config.keep_ratio, self.config.seed)
        self._tally = reduce_visual_tokens(model, {self.config.layer: select}, patch)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many visual tokens there were on average, and how many were kept."""
        return {**(self._tally or Tally()).report(), "layer": self.config.layer}


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `random-drop`."""
    register("random-drop", RandomDrop)
