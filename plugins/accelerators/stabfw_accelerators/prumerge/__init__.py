"""Accelerator `prumerge`: keep what stands out to the vision tower, and merge into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class PruMergeConfig(TokenReductionConfig):
    """Config of `prumerge`."""

    keep_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the visual tokens that is left, the merged one included; by default "
        "the picture decides.",
    )
    plus: bool = Field(
        default=False,
        description="Whether evenly spaced tokens are added to the outliers (PruMerge+).",
    )


class PruMerge(TokenReduction[PruMergeConfig]):
    """Keeps visual tokens with outlying attention, and adds those that are like them.

    Shang et al., 2025, "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal
    Models" (ICCV 2025, arXiv 2403.15388), section 3: kept are the tokens whose attention from
    the class token is above the third quartile by more than 1.5 times the range between the
    quartiles. PruMerge+ adds tokens at a third of the stride that would give as many again, but
    never the last, as the authors' code has it. To each kept token its 32 nearest others, kept or
    not, are added, nearest by the cosine of keys and weighted by their attention. One more token
    is the weighted sum of all that are dropped.

    With `keep_ratio`, the tokens with the most attention are kept, up to that share; with `plus`
    too, outliers are kept and evenly spaced tokens fill up the rest, as in EffiVLM-Bench. If all
    tokens are kept, nothing is merged. The numbers published for LLaVA-1.5 are of a model that
    was tuned with its tokens merged; here nothing is tuned.

    An adaptation: projected tokens are merged, not the tower's states; attention and keys are
    those of the block whose states become features, by heads, not of the last one over its full
    width; tokens stay in their order, the merged one stands where the last dropped one stood, and
    positions are kept by default. All patches of a prompt are one set; in LLaVA-NeXT the marks of
    rows' ends are dropped unless all tokens are kept. In the Qwen families attention is the mean
    over all patches.
    """

    config_cls: ClassVar[type[PruMergeConfig]] = PruMergeConfig
    name: ClassVar[str] = "prumerge"
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED
    needs_vision: ClassVar[bool] = True

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, before the first layer; if the picture decides, of at most all tokens."""
        return {0: self.config.keep_ratio or 1.0}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what is attended to, and merge."""
        from stabfw_accelerators.prumerge.method import outliers_and_merged

        return outliers_and_merged(self.config.keep_ratio, self.config.plus)

    def control(self) -> tuple[str, Mapping[str, Any]] | None:
        """Dropping as many tokens at random; where the picture decides how many, itself, blind."""
        if self.config.keep_ratio is None:
            return super().control()
        budget = self.config.model_dump(include={"keep_ratio", "positions"})
        return "random-drop", {"layer": 0, **budget}


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `prumerge`."""
    register("prumerge", PruMerge)
