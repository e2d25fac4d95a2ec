"""Accelerator `visionzip`: keep what the vision tower looks at, and merge the rest into a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import InputReduction, InputReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class VisionZipConfig(InputReductionConfig):
    """Config of `visionzip`."""

    keep_ratio: float = Field(
        default=1 / 3,
        gt=0,
        le=1,
        description="Share of the visual tokens that is left, merged ones included.",
    )
    contextual_share: float = Field(
        default=30 / 192,
        ge=0,
        lt=1,
        description="Share of what is left that is merged from all other tokens.",
    )


class VisionZip(InputReduction[VisionZipConfig]):
    """Keeps dominant visual tokens, and merges all others into a few contextual ones.

    Yang et al., 2025, "VisionZip: Longer is Better but Not Necessary in Vision Language Models"
    (CVPR 2025, arXiv 2412.04467), section 3: dominant tokens are those that the class token of
    the vision tower attends to most; of the rest, evenly spaced ones become targets, each other
    one joins the target whose key is the most similar, and a contextual token is its target plus
    the mean of those that joined it. The default is the authors' 162 + 30 of 576.

    An adaptation, in five ways. The authors merge the tower's states and project the result; here
    projected tokens are merged. They add the class token's own state to the dominant ones; here
    one more patch is taken in its place. They put contextual tokens behind all dominant ones and
    renumber positions; here each stands where its target stood, and positions are kept by
    default. They treat each picture or tile apart; here all patches of a prompt are one set. In
    LLaVA-NeXT both drop the marks of rows' ends, unless all tokens are kept. In the Qwen families,
    whose towers have no class token, dominance is the mean attention of all patches.
    """

    config_cls: ClassVar[type[VisionZipConfig]] = VisionZipConfig
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED
    needs_vision: ClassVar[bool] = True

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what is dominant, and merge the rest."""
        from stabfw_accelerators.visionzip.method import dominant_and_contextual

        return dominant_and_contextual(keep_ratio, self.config.contextual_share)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `visionzip`."""
    register("visionzip", VisionZip)
