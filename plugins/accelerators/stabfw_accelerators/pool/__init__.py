"""Accelerator `pool`: average blocks of neighbouring visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class PoolConfig(TokenReductionConfig):
    """Config of `pool`."""

    size: int = Field(
        default=2, ge=2, description="Blocks of so many rows and columns become one token."
    )


class Pool(TokenReduction[PoolConfig]):
    """Replaces square blocks of visual tokens by their means before the first layer.

    A control: it is as if the picture had been seen at a lower resolution, but for what the
    vision tower saw, and by itself often as good as methods that choose tokens. The mean stands
    where the block's first token stood. Blocks do not cross tiles; at the edge they may be
    incomplete. The mark of a row's end stays if a mean stands in its row.
    """

    config_cls: ClassVar[type[PoolConfig]] = PoolConfig
    name: ClassVar[str] = "pool"
    needs_vision: ClassVar[bool] = True

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, before the first layer, if all blocks are complete."""
        return {0: 1 / self.config.size**2}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Average blocks."""
        from stabfw_accelerators.pool.method import blocks

        return blocks(self.config.size)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `pool`."""
    register("pool", Pool)
