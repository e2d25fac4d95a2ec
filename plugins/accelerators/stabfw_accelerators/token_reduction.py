"""What all methods that drop visual tokens have in common: everything but which tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

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
from stabfw.components.reduction import Positions, Select, Tally, reduce_visual_tokens, why_not
from stabfw.errors import UnsupportedError

if TYPE_CHECKING:
    from stabfw.components.patch import Patch


class TokenReductionConfig(AcceleratorConfig):
    """What every such method lets a user choose."""

    positions: Positions = Field(
        default="keep",
        description="Whether tokens keep their positions, or are renumbered without gaps.",
    )
    blind: bool = Field(
        default=False,
        description="Keep as many tokens as the method would, but draw which ones: its control.",
    )


class InputReductionConfig(TokenReductionConfig):
    """What a method lets a user choose that drops tokens before the first layer."""

    keep_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of the visual tokens that are kept."
    )


T = TypeVar("T", bound=TokenReductionConfig)
In = TypeVar("In", bound=InputReductionConfig)


class TokenReduction(Accelerator[T]):
    """A method that drops visual tokens before some decoder layers.

    Attributes:
        name: How a spec calls it, where nothing but the method itself, made blind, can spend its
            budget.
        authors_positions: What the authors do with positions, where they evaluated LLaVA; None if
            a method has no authors. On other families, or with other positions, a method is an
            adaptation, and `report` says so.
        needs_vision: Whether the method goes by where visual tokens are from or by what the vision
            tower looks at, which not every model tells.
    """

    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.VISUAL_TOKENS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL
    name: ClassVar[str] = ""
    authors_positions: ClassVar[Positions | None] = None
    needs_vision: ClassVar[bool] = False

    _tally: Tally | None = None
    _layers: tuple[int, ...] = ()

    @abstractmethod
    def stages(self, layers: int | None) -> Mapping[int, float]:
        """Tell the share of the visual tokens that is left from some layers on.

        Args:
            layers: Decoder layers of the model, None if unknown.

        Raises:
            UnsupportedError: If that follows from the number of layers, but cannot.
        """

    @abstractmethod
    def select(self, layer: int, keep_ratio: float) -> Select:
        """Make the rule by which a share of the tokens is kept before one of these layers."""

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model whose anatomy tells what the method needs, with enough layers."""
        try:
            last = max(self.stages(info.layers))
        except UnsupportedError as error:
            # That the model has no anatomy says more.
            return why_not(info, 0) or str(error)
        return why_not(info, last, self.config.positions, self.needs_vision)

    def fidelity_on(self, info: ModelInfo) -> Fidelity:
        """Adapted, where the authors did not evaluate the family or treat positions otherwise."""
        if self.config.blind:
            return Fidelity.ADAPTED
        theirs = info.family == "llava" and self.config.positions == self.authors_positions
        return self.fidelity if theirs or self.authors_positions is None else Fidelity.ADAPTED

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop tokens until the patch ends."""
        layers = model.info.layers if model.anatomy is None else len(model.anatomy.layers)
        plan = {layer: self.select(layer, r) for layer, r in self.stages(layers).items()}
        if self.config.blind:
            from stabfw_accelerators.random_drop.method import blinded

            plan = {layer: blinded(select) for layer, select in plan.items()}
        self._tally = reduce_visual_tokens(model, plan, patch, self.config.positions)
        self._layers = tuple(plan)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many visual tokens there were on average, and how many were kept."""
        return {
            **(self._tally or Tally()).report(),
            "layers": list(self._layers),
            "fidelity": self.fidelity_on(model.info).value,
        }

    def control(self) -> tuple[str, Mapping[str, Any]] | None:
        """The method itself, blind, if it has a name."""
        if not self.name or self.config.blind:
            return None
        return self.name, {**self.config.model_dump(exclude={"type"}), "blind": True}


class InputReduction(TokenReduction[In]):
    """A method that drops visual tokens before the first layer, down to a share of them."""

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage, before the first layer."""
        return {0: self.config.keep_ratio}

    def control(self) -> tuple[str, Mapping[str, Any]] | None:
        """Dropping as many tokens at random before the first layer."""
        budget = self.config.model_dump(include={"keep_ratio", "positions"})
        return "random-drop", {"layer": 0, **budget}
