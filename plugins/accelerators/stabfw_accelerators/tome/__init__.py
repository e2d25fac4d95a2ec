"""Accelerator `tome`: merge the visual tokens that are most alike, two by two."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import InputReduction, InputReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class ToMeConfig(InputReductionConfig):
    """Config of `tome`."""

    keep_ratio: float = Field(
        default=0.5,
        ge=0.5,
        le=1,
        description="Share of the visual tokens that is left; one merge can at most halve them.",
    )


class ToMe(InputReduction[ToMeConfig]):
    """Merges visual tokens by one bipartite soft matching before the first layer.

    Bolya et al., 2023, "Token Merging: Your ViT But Faster" (ICLR 2023, arXiv 2210.09461),
    section 3: every second token, from the first on, finds the most similar one among the others;
    the most similar pairs are merged, and what is merged is the mean of all its tokens.

    An adaptation: the authors merge a few tokens in each block of the vision tower, by its keys,
    and let merged tokens count by their size in attention. Here projected tokens are merged once,
    by their own cosine, which works for every family, and size does not count. The tower itself
    saves nothing. A merged token stands where the one of the pair stood that was found.
    """

    config_cls: ClassVar[type[ToMeConfig]] = ToMeConfig
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Merge what is most alike."""
        from stabfw_accelerators.tome.method import merge_alike

        return merge_alike(keep_ratio)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `tome`."""
    register("tome", ToMe)
