"""Accelerator `vtw`: withdraw all visual tokens half-way through the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.errors import UnsupportedError
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Positions, Select


class VtwConfig(TokenReductionConfig):
    """Config of `vtw`."""

    layer: int | None = Field(
        default=None,
        ge=1,
        description="All visual tokens are dropped before this decoder layer, counted from 0; by "
        "default after 15 of every 32 layers, rounded down.",
    )


class Vtw(TokenReduction[VtwConfig]):
    """Drops all visual tokens before a layer: by then, text has taken in what it needs.

    Lin et al., 2025, "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for
    Rapid Inference" (AAAI 2025, arXiv 2405.05803). Remaining tokens keep their positions.

    The authors choose the layer for each model and task: the first at which the distribution of
    the first answer token stays close to that of the whole model on a few examples. That search
    is not done here. The default is their layer 15 for LLaVA-1.5-7B, scaled to the depth of other
    models; questions about fine detail, such as text in the picture, need a deeper one.
    """

    config_cls: ClassVar[type[VtwConfig]] = VtwConfig
    authors_positions: ClassVar[Positions | None] = "keep"

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage that leaves nothing.

        Raises:
            UnsupportedError: If there is no layer to choose by default.
        """
        if self.config.layer is not None:
            return {self.config.layer: 0.0}
        if layers is None:
            raise UnsupportedError("how many layers the model has is not known: give `layer`")
        # With the tokens dropped before the first layer, the picture would never be seen.
        return {max(1, layers * 15 // 32): 0.0}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep nothing."""
        from stabfw_accelerators.vtw.method import nothing

        return nothing


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `vtw`."""
    register("vtw", Vtw)
