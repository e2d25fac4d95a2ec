"""Config of methods that drop visual tokens in several stages."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from stabfw.errors import UnsupportedError

from stabfw_accelerators.token_reduction import TokenReductionConfig

Layer = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class StagedConfig(TokenReductionConfig):
    """Where tokens are dropped, and how many are left.

    Attributes:
        of_32: Where the authors drop tokens in a decoder of 32 layers, which is scaled to other
            depths; by default stages split the model evenly.
    """

    of_32: ClassVar[tuple[int, ...]] = ()

    layers: tuple[Layer, ...] | None = Field(
        default=None,
        description="Tokens are dropped before these decoder layers, counted from 0; by default "
        "stages split the model evenly, so that three are at 1/4, 1/2 and 3/4 of its layers.",
    )
    keep_ratios: tuple[Share, ...] = Field(
        default=(0.5, 0.25, 0.125),
        min_length=1,
        description="Share of the original visual tokens that is left after each stage.",
    )

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> StagedConfig:
        if any(before < after for before, after in pairwise(self.keep_ratios)):
            raise ValueError(f"keep_ratios must not rise: {list(self.keep_ratios)}")
        if self.layers is None:
            return self
        if len(self.layers) != len(self.keep_ratios):
            raise ValueError(
                f"there are {len(self.layers)} layers, but {len(self.keep_ratios)} keep_ratios: "
                "give one for each"
            )
        if any(before >= after for before, after in pairwise(self.layers)):
            raise ValueError(f"layers must rise: {list(self.layers)}")
        return self

    def placed(self, layers: int | None) -> Mapping[int, float]:
        """Tell the share that is left from each stage's layer on.

        Args:
            layers: Decoder layers of the model, None if unknown.

        Raises:
            UnsupportedError: If the stages cannot be spread over so many layers.
        """
        if self.layers is not None:
            return dict(zip(self.layers, self.keep_ratios, strict=True))
        stages = len(self.keep_ratios)
        if layers is None:
            raise UnsupportedError("how many layers the model has is not known: give `layers`")
        if layers <= stages:
            raise UnsupportedError(
                f"{stages} stages need {stages + 1} decoder layers, but the model has {layers}"
            )
        if stages != len(self.of_32):
            places = [layers * number // (stages + 1) for number in range(1, stages + 1)]
            return dict(zip(places, self.keep_ratios, strict=True))
        places = [0]
        for place in self.of_32:
            places.append(max(places[-1] + 1, layers * place // 32))
        return dict(zip(places[1:], self.keep_ratios, strict=True))
