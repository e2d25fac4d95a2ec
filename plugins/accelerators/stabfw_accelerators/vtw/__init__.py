"""Accelerator `vtw`: withdraw all visual tokens half-way through the decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from stabfw.components import Accelerator, Artefact, FitData, LoadedModel, ModelInfo
from stabfw.errors import UnsupportedError
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import TokenReduction, TokenReductionConfig

if TYPE_CHECKING:
    from stabfw.components.patch import Patch
    from stabfw.components.reduction import Positions, Select


class VtwConfig(TokenReductionConfig):
    """Config of `vtw`."""

    layer: int | None = Field(
        default=None,
        ge=1,
        description="All visual tokens are dropped before this decoder layer, counted from 0; by "
        "default after 15 of every 32 layers, rounded down.",
    )
    search: bool = Field(
        default=False, description="Look for the layer on the data of `calibration` instead."
    )
    divergence: float = Field(
        default=0.003,
        gt=0,
        description="The search stops at the first layer with a mean Kullback-Leibler divergence "
        "of the first token's distribution as small, in nats.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> VtwConfig:
        if self.search and self.layer is not None:
            raise ValueError("give `layer` or `search`, not both")
        return self


class Vtw(TokenReduction[VtwConfig]):
    """Drops all visual tokens before a layer: by then, text has taken in what it needs.

    Lin et al., 2025, "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for
    Rapid Inference" (AAAI 2025, arXiv 2405.05803). Remaining tokens keep their positions.

    The authors choose the layer for each model and task: the first at which the distribution of
    the first answer token stays within a divergence of the whole model's, on 20 examples: 0.003
    for LLaVA-1.5-7B, 0.0005 for 13B. `search` does that; if no layer is close enough it takes the
    last one. Otherwise the default is their layer 15 for LLaVA-1.5-7B, scaled to the depth of
    other models; questions about fine detail, such as text in the picture, need a deeper one.
    """

    config_cls: ClassVar[type[VtwConfig]] = VtwConfig
    authors_positions: ClassVar[Positions | None] = "keep"
    needs_fit: ClassVar[bool] = True

    _searched: int | None = None

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage that leaves nothing.

        Raises:
            UnsupportedError: If there is no layer to choose by default.
        """
        if self._searched is not None:
            return {self._searched: 0.0}
        return {self._layer(layers): 0.0}

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep nothing."""
        from stabfw_accelerators.vtw.method import nothing

        return nothing

    def at_hand(self, info: ModelInfo) -> Artefact | None:
        """The layer, if it is not to be searched."""
        return None if self.config.search else _artefact(self._layer(info.layers))

    def fitted_by(self) -> Mapping[str, Any]:
        """How close is close enough."""
        return {"divergence": self.config.divergence}

    def fit(self, model: LoadedModel, data: FitData) -> Artefact:
        """Search the layer."""
        from stabfw_accelerators.vtw.search import search

        return _artefact(*search(model, data, self.config.divergence))

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop all tokens until the patch ends."""
        if artefact is not None:
            self._searched = json.loads(artefact.data)["layer"]
        super().attach(model, artefact, patch)

    def _layer(self, layers: int | None) -> int:
        if self.config.layer is not None:
            return self.config.layer
        if layers is None:
            raise UnsupportedError("how many layers the model has is not known: give `layer`")
        # With the tokens dropped before the first layer, the picture would never be seen.
        return max(1, layers * 15 // 32)


def _artefact(layer: int, divergences: Sequence[float] = ()) -> Artefact:
    """Keep a layer, and the divergences from layer 1 on that led to it."""
    told = {"layer": layer, "divergences": list(divergences)}
    return Artefact(json.dumps(told).encode())


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `vtw`."""
    register("vtw", Vtw)
