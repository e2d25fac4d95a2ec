"""Accelerator `sparsevlm`: let the words that matter to the picture rate the visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity, LoadRequest, ModelInfo
from stabfw.registry import hookimpl

from stabfw_accelerators.stages import Layer, Share, StagedConfig
from stabfw_accelerators.token_reduction import TokenReduction

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class SparseVlmConfig(StagedConfig):
    """Config of `sparsevlm`."""

    of_32: ClassVar[tuple[int, ...]] = (3, 7, 16)

    layers: tuple[Layer, ...] | None = Field(
        default=None,
        description="Tokens are dropped before these decoder layers, counted from 0; by default "
        "before 3, 7 and 16 of 32, scaled to the model.",
    )
    keep_ratios: tuple[Share, ...] = Field(
        default=(300 / 576, 200 / 576, 110 / 576),
        min_length=1,
        description="Share of the original visual tokens that is kept by each stage; recycled "
        "tokens come on top.",
    )
    recycle: bool = Field(
        default=True,
        description="Whether the better ones of the dropped tokens are merged into a few.",
    )


class SparseVlm(TokenReduction[SparseVlmConfig]):
    """Keeps the visual tokens that chosen words of the question attend to, in three stages.

    Zhang et al., 2025, "SparseVLM: Visual Token Sparsification for Efficient Vision-Language
    Model Inference" (ICML 2025, arXiv 2410.04417), section 3, the first version. Raters are the
    tokens of the question with more than the mean of the softmax, over the question, of the
    products of visual and text embeddings, averaged over visual tokens. A visual token's score is
    the attention that the raters paid it in the layer before, averaged over heads and raters.
    Recycling takes the best 30 % of the dropped tokens, finds one cluster for ten of them by
    density peaks with the nearest neighbours, and puts their mean into the sequence.

    The authors keep 300, 200 and 110 of 576 tokens for what they call 192 on average, 303, 110
    and 36 for 128, and 66, 30 and 17 for 64. In the paper, the rank of the attention matrix says
    how many tokens a stage drops; in the authors' code, and here, the counts are given.

    An adaptation: a recycled token stands where the centre of its cluster stood, not behind all
    kept ones; positions are kept by default, where the authors renumber them; the noise that they
    add to densities to tell equal ones apart is left out, and the earlier token counts as denser;
    a stage that has no more tokens than its budget drops none. The question is the text behind
    the last picture. The second version of the code (corrected attention, chosen heads, no
    recycling) is not done: `recycle: false` is the first one without recycling.
    """

    config_cls: ClassVar[type[SparseVlmConfig]] = SparseVlmConfig
    name: ClassVar[str] = "sparsevlm"
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy, if there is a layer before the first stage."""
        if self.config.layers is not None and self.config.layers[0] == 0:
            return "no layer comes before layer 0 whose attention could rate tokens"
        return super().supports(info, request)

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """The stages, as they fall on so many layers."""
        return self.config.placed(layers)

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what the raters attended to, and recycle some of the rest."""
        from stabfw_accelerators.sparsevlm.method import rated

        return rated(keep_ratio, self.config.recycle)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `sparsevlm`."""
    register("sparsevlm", SparseVlm)
