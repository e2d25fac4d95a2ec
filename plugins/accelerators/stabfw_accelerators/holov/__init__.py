"""Accelerator `holov`: spread the budget over the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import InputReduction, InputReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class HoloVConfig(InputReductionConfig):
    """Config of `holov`."""

    keep_ratio: float = Field(
        default=64 / 576, gt=0, le=1, description="Share of the visual tokens that are kept."
    )
    crops: int = Field(
        default=16, ge=1, description="Parts, one after the other, that share the budget."
    )


class HoloV(InputReduction[HoloVConfig]):
    """Gives each part of the picture a budget by the attention to it.

    Zou et al., 2025, "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic
    Context Retention" (NeurIPS 2025, arXiv 2510.02912), as the authors' code has it: the sequence
    of visual tokens is cut into crops. Crops get tokens in proportion to the mean of the vision
    tower's attention to theirs, rounded down; the best crops get one more until the budget is
    spent. In each crop, the tokens with the most attention are kept.

    That code adds to each token's attention how much its likeness to others of the crop varies,
    and scales this to 0.09 of the crop's mean attention. Crops are then compared by their means,
    to which it adds the same share everywhere, and tokens by attention alone: it has no effect
    and is left out.

    An adaptation: where a crop would get more tokens than it has, the next best crops get them,
    while the authors' code fills up with zero vectors; tokens stay in their order, while in that
    code those of a crop are in the order of attention; positions are kept by default. The tokens
    of all pictures of a prompt are one sequence, with the marks of rows' ends in it, which have
    no attention. In the Qwen families attention is the mean over all patches, and the number of
    crops is the same for every picture, where the authors scale it.
    """

    config_cls: ClassVar[type[HoloVConfig]] = HoloVConfig
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED
    needs_vision: ClassVar[bool] = True

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep the most attended tokens of each crop."""
        from stabfw_accelerators.holov.method import of_each_crop

        return of_each_crop(keep_ratio, self.config.crops)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `holov`."""
    register("holov", HoloV)
