"""Accelerator `fastv`: drop the visual tokens that the last token hardly attends to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.components.reduction import Tally, reduce_visual_tokens, why_not
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.components.patch import Patch


class FastVConfig(AcceleratorConfig):
    """Config of `fastv`."""

    layer: int = Field(
        default=2, ge=1, description="Tokens are dropped before this decoder layer, counted from 0."
    )
    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )


class FastV(Accelerator[FastVConfig]):
    """Keeps the visual tokens with the highest attention from the last token.

    Chen et al., 2024, "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024), section 4.1:
    at the input of layer K, visual tokens are ranked by the attention that the last token of the
    prompt paid to them in layer K - 1, averaged over heads, and a share R = 1 - `keep_ratio` is
    dropped. Kept tokens keep their positions; decoding reuses the choice made in prefill.

    The attention row is recomputed rather than taken from `eager` attention, and whole batches
    are pruned where the authors' code handles one prompt. The authors evaluated LLaVA; on other
    families this is an adaptation, and `report` says so.
    """

    config_cls: ClassVar[type[FastVConfig]] = FastVConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.VISUAL_TOKENS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy and more layers than `layer`."""
        return why_not(info, self.config.layer)

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop tokens before `layer` until the patch ends."""
        from stabfw_accelerators.fastv.method import most_attended

        select = most_attended(self.config.keep_ratio)
        self._tally = reduce_visual_tokens(model, {self.config.layer: select}, patch)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many visual tokens there were on average, and how many were kept."""
        faithful = model.info.family == "llava"
        return {
            **(self._tally or Tally()).report(),
            "layer": self.config.layer,
            "fidelity": (Fidelity.FAITHFUL if faithful else Fidelity.ADAPTED).value,
        }

    def control(self) -> tuple[str, Mapping[str, Any]]:
        """Dropping as many tokens at random at the same layer."""
        return "random-drop", self.config.model_dump(include={"layer", "keep_ratio"})


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `fastv`."""
    register("fastv", FastV)
