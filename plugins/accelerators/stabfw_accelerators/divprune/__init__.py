"""Accelerator `divprune`: keep the visual tokens that differ most from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import InputReduction, InputReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Positions, Select


class DivPruneConfig(InputReductionConfig):
    """Config of `divprune`."""

    keep_ratio: float = Field(
        default=0.098, gt=0, le=1, description="Share of the visual tokens that are kept."
    )


class DivPrune(InputReduction[DivPruneConfig]):
    """Keeps a diverse set of the visual tokens, whatever is asked.

    Alvar et al., 2025, "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
    Models" (CVPR 2025, arXiv 2503.02175): the max-min diversity problem over the
    projected tokens, with one minus the cosine as the distance, solved greedily. The first token
    is the one whose nearest other token is the farthest; then, again and again, the token whose
    nearest kept token is the farthest. Tokens are dropped before the first layer and stay in
    their order.

    Distances are computed in float32, because ties between rounded distances decide the first
    token and with it all others. All visual tokens of a prompt are one set: pictures, tiles and,
    in LLaVA-NeXT, the marks of rows' ends. The authors' code renumbers the positions of what is
    left; here the default keeps them, as multimodal positions cannot be renumbered.
    """

    config_cls: ClassVar[type[DivPruneConfig]] = DivPruneConfig
    authors_positions: ClassVar[Positions | None] = "renumber"

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what differs most."""
        from stabfw_accelerators.divprune.method import most_diverse

        return most_diverse(keep_ratio)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `divprune`."""
    register("divprune", DivPrune)
