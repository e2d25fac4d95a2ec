"""Accelerator `random-drop`: drop visual tokens at random, the control of every token reduction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class RandomDropConfig(TokenReductionConfig):
    """Config of `random-drop`."""

    layer: int = Field(
        default=2, ge=0, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )
    seed: int = Field(default=0, ge=0, description="Another seed keeps other tokens.")


class RandomDrop(TokenReduction[RandomDropConfig]):
    """Keeps visual tokens at random.

    A method that ranks tokens has to beat this at the same layer and budget. Which tokens are
    kept depends on seed and instance id only, not on batch, order or worker.
    """

    config_cls: ClassVar[type[RandomDropConfig]] = RandomDropConfig

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, at `layer`."""
        return {self.config.layer: self.config.keep_ratio}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what is drawn."""
        from stabfw_accelerators.random_drop.method import at_random

        return at_random(keep_ratio, self.config.seed)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `random-drop`."""
    register("random-drop", RandomDrop)
