"""Accelerator `dart`: keep a few pivots, and the visual tokens that are least like them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class DartConfig(TokenReductionConfig):
    """Config of `dart`."""

    layer: int = Field(
        default=2, ge=1, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=128 / 576,
        gt=0,
        le=1,
        description="Share of the visual tokens that are kept, pivots included.",
    )
    pivots: int = Field(default=4, ge=1, description="How many visual tokens are pivots.")
    text_pivots: int = Field(
        default=4, ge=0, description="How many tokens of the question are pivots too."
    )


class Dart(TokenReduction[DartConfig]):
    """Keeps pivots and what duplicates them least, without any attention.

    Wen et al., 2025, "Stop Looking for Important Tokens in Multimodal Language Models:
    Duplication Matters More" (EMNLP 2025, arXiv 2502.11494), section 4: pivots are the visual
    tokens and the tokens of the question whose keys in layer K - 1 have the largest L1 norm.
    Each pivot in turn takes its part of the budget from the tokens not yet taken: those with the
    smallest cosine to it, by the hidden states before layer K. Visual pivots are kept too.

    An adaptation: hidden states are compared as they are, where the authors' code applies the
    decoder's final norm first; pivots take turns in the order of the sequence, visual ones
    first, where that code goes through a set; parts differ by at most one, so that the budget is
    kept to exactly, visual pivots included, which the authors add on top. The question is the
    text behind the last picture. Positions are kept, as the authors do.
    """

    config_cls: ClassVar[type[DartConfig]] = DartConfig
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, at `layer`."""
        return {self.config.layer: self.config.keep_ratio}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep pivots, and what is least like them."""
        from stabfw_accelerators.dart.method import least_duplicated

        return least_duplicated(keep_ratio, self.config.pivots, self.config.text_pivots)

    def control(self) -> tuple[str, Mapping[str, Any]]:
        """Dropping as many tokens at random at the same layer."""
        return "random-drop", self.config.model_dump(include={"layer", "keep_ratio", "positions"})


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `dart`."""
    register("dart", Dart)
