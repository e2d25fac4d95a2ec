"""Accelerator `fastv`: drop the visual tokens that the last token hardly attends to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Positions, Select


class FastVConfig(TokenReductionConfig):
    """Config of `fastv`."""

    layer: int = Field(
        default=2, ge=1, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )


class FastV(TokenReduction[FastVConfig]):
    """Keeps the visual tokens with the highest attention from the last token.

    Chen et al., 2024, "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024), section 4.1:
    at the input of layer K, visual tokens are ranked by the attention that the last token of the
    prompt paid to them in layer K - 1, averaged over heads, and a share R = 1 - `keep_ratio` is
    dropped. Kept tokens keep their positions; decoding reuses the choice made in prefill.

    The attention row is recomputed rather than taken from `eager` attention, and whole batches
    are pruned where the authors' code handles one prompt. The authors evaluated LLaVA; on other
    families this is an adaptation, and `report` says so.
    """

    config_cls: ClassVar[type[FastVConfig]] = FastVConfig
    authors_positions: ClassVar[Positions | None] = "keep"

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, at `layer`."""
        return {self.config.layer: self.config.keep_ratio}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what is attended to most in the layer before."""
        from stabfw_accelerators.fastv.method import most_attended

        return most_attended(keep_ratio)

    def control(self) -> tuple[str, Mapping[str, Any]]:
        """Dropping as many tokens at random at the same layer."""
        return "random-drop", self.config.model_dump(include={"layer", "keep_ratio", "positions"})


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `fastv`."""
    register("fastv", FastV)
