"""Accelerator `lofi`: keep the visual tokens with the highest leverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity
from stabfw.registry import hookimpl

from stabfw_accelerators.token_reduction import InputReduction, InputReductionConfig

if TYPE_CHECKING:
    from stabfw.components.reduction import Select


class LoFiConfig(InputReductionConfig):
    """Config of `lofi`."""

    keep_ratio: float = Field(
        default=0.25, gt=0, le=1, description="Share of the visual tokens that are kept."
    )
    rank: int | None = Field(
        default=None,
        ge=1,
        description="How many singular vectors count; by default as many as tokens are kept.",
    )


class LoFi(InputReduction[LoFiConfig]):
    """Keeps the visual tokens that weigh most in the leading directions of all of them.

    Leverage scores as Sun et al., 2025 (arXiv 2503.06794, versions 1 and 2) name them: with the
    singular value decomposition X = U S V' of the projected tokens, a token's score is the squared
    norm of its row in the first `rank` columns of U. X is not centred.

    Unverified: only the abstract was at hand, and it names neither layer, rank nor centring. The
    rank matters: with as many vectors as tokens each score is 1, so such a rank is refused.
    """

    config_cls: ClassVar[type[LoFiConfig]] = LoFiConfig
    fidelity: ClassVar[Fidelity] = Fidelity.UNVERIFIED

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what has the highest leverage."""
        from stabfw_accelerators.lofi.method import highest_leverage

        return highest_leverage(keep_ratio, self.config.rank)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `lofi`."""
    register("lofi", LoFi)
