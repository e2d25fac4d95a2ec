"""Accelerator `uniform`: keep evenly spaced visual tokens, whatever they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class UniformConfig(TokenReductionConfig):
    """Config of `uniform`."""

    layer: int = Field(
        default=0, ge=0, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )


class Uniform(TokenReduction[UniformConfig]):
    """Keeps evenly spaced visual tokens of the sequence, the first one among them.

    A control that, unlike `random-drop`, leaves no part of a picture without tokens. Where the
    stride divides the length of a row, the same columns are kept in each row; `pool` treats both
    directions alike.
    """

    config_cls: ClassVar[type[UniformConfig]] = UniformConfig

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, at `layer`."""
        return {self.config.layer: self.config.keep_ratio}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep every so many tokens."""
        from stabfw_accelerators.uniform.method import evenly_spaced

        return evenly_spaced(keep_ratio)

    def control(self) -> tuple[str, Mapping[str, Any]]:
        """Dropping as many tokens at random at the same layer."""
        return "random-drop", self.config.model_dump(include={"layer", "keep_ratio", "positions"})


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `uniform`."""
    register("uniform", Uniform)
