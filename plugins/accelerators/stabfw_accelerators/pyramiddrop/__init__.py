"""Accelerator `pyramiddrop`: drop visual tokens in stages, more the deeper the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.stages import StagedConfig
from stabfw_accelerators.token_reduction import TokenReduction

if TYPE_CHECKING:
    from stabfw.components.reduction import Positions, Select


class PyramidDropConfig(StagedConfig):
    """Config of `pyramiddrop`."""


class PyramidDrop(TokenReduction[PyramidDropConfig]):
    """Keeps, at the end of each stage, the visual tokens that the next layer attends to most.

    Xing et al., 2025, "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid
    Visual Redundancy Reduction" (CVPR 2025, arXiv 2410.17247), section 3: the score is
    the attention of the last token in the layer that follows, averaged over heads. The default
    is the authors' three stages, which leave 1/2, 1/4 and 1/8 of the tokens at 1/4, 1/2 and 3/4
    of the layers. Their code renumbers the positions of what is left; here the default keeps
    them, as multimodal positions cannot be renumbered.
    """

    config_cls: ClassVar[type[PyramidDropConfig]] = PyramidDropConfig
    name: ClassVar[str] = "pyramiddrop"
    authors_positions: ClassVar[Positions | None] = "renumber"

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """The stages, as they fall on so many layers."""
        return self.config.placed(layers)

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what is attended to most in the layer itself."""
        from stabfw_accelerators.pyramiddrop.method import most_attended_next

        return most_attended_next(keep_ratio)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `pyramiddrop`."""
    register("pyramiddrop", PyramidDrop)
