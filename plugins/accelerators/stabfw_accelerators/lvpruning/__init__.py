"""Accelerator `lvpruning`: trained modules decide which visual tokens the question needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from stabfw.components import Accelerator, Artefact, Fidelity, FitData, LoadedModel, ModelInfo
from stabfw.registry import hookimpl

from stabfw_accelerators.stages import Layer, Share, StagedConfig
from stabfw_accelerators.token_reduction import TokenReduction

if TYPE_CHECKING:
    from stabfw.components.patch import Patch
    from stabfw.components.reduction import Positions, Select

Kept = tuple[Share, ...]
AUTHORS_SHARES: Kept = (0.5, 0.3, 0.1)


class Training(BaseModel):
    """How the modules are trained. Defaults are the authors', where the paper tells them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_ratios: Kept = Field(
        default=AUTHORS_SHARES, min_length=1, description="Shares that modules learn to keep."
    )
    epochs: int = Field(default=1, ge=1, description="How often the data is gone through.")
    batch_size: int = Field(default=64, ge=1, description="Examples of one step.")
    micro_batch_size: int = Field(
        default=8, ge=1, description="Examples that go through the model together."
    )
    learning_rate: float = Field(default=2e-6, gt=0, description="Peak learning rate of AdamW.")
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Share of the steps until the peak; then a cosine."
    )
    ratio_weight: float = Field(
        default=1.0, ge=0, description="Weight of the loss that asks for the kept shares."
    )
    temperature: float = Field(default=1.0, gt=0, description="Temperature of the Gumbel-softmax.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, order and noise.")


class LVPruningConfig(StagedConfig):
    """Config of `lvpruning`."""

    of_32: ClassVar[tuple[int, ...]] = (1, 8, 16)

    layers: tuple[Layer, ...] | None = Field(
        default=None,
        description="Modules decide before these decoder layers, counted from 0; by default "
        "before 1, 8 and 16 of 32, scaled to the model.",
    )
    keep_ratios: Kept = Field(
        default=AUTHORS_SHARES,
        min_length=1,
        description="Share of the original visual tokens that each module leaves. Modules need not "
        "be trained anew for other shares.",
    )
    heads: int = Field(default=8, ge=1, description="Attention heads of a module.")
    weights: Path | None = Field(
        default=None,
        description="Trained modules, a safetensors file that a fit made; by default those that "
        "come with the tiny models, or those that are trained on `calibration`.",
    )
    training: Training = Field(default=Training(), description="How modules are trained.")

    @model_validator(mode="after")
    def _training_has_as_many(self) -> LVPruningConfig:
        if len(self.training.keep_ratios) != len(self.keep_ratios):
            raise ValueError(
                f"{len(self.keep_ratios)} modules keep {list(self.keep_ratios)}, but are trained "
                f"to keep {list(self.training.keep_ratios)}: give training.keep_ratios as many"
            )
        return self


class LVPruning(TokenReduction[LVPruningConfig]):
    """Keeps what trained cross-attention modules find to matter for the question.

    Sun et al., 2025, "LVPruning: An Effective yet Simple Language-Guided Vision Token Pruning
    Approach for Multi-modal Large Language Models" (Findings of NAACL 2025, arXiv 2501.13652).
    Three modules in the decoder look from visual to text tokens and rank the former; the best ρ,
    ρ - 0.2 and ρ - 0.4 of them stay, with their positions: the authors trained with ρ = 0.5, the
    default, and used 0.6 and 0.45 too. The modules are trained with the Gumbel-softmax and
    attention masks on a frozen model.

    The paper leaves open the temperature, the weight of the loss of ratios, whether the attention
    has an output projection (its table of FLOPs needs one), whether a kept share is that of one
    picture or of many (here of all in a micro-batch), and whether text means the prompt or also the
    answer: here it is the prompt, which is all that there is when tokens are dropped.
    Nothing was compared with the authors' weights.
    """

    config_cls: ClassVar[type[LVPruningConfig]] = LVPruningConfig
    name: ClassVar[str] = "lvpruning"
    fidelity: ClassVar[Fidelity] = Fidelity.UNVERIFIED
    authors_positions: ClassVar[Positions | None] = "keep"
    needs_fit: ClassVar[bool] = True

    _modules: Mapping[int, Any] = {}

    def stages(self, layers: int | None) -> Mapping[int, float]:
        """One stage for each module."""
        return self.config.placed(layers)

    def select(self, layer: int, keep_ratio: float) -> Select:
        """Keep what the module of a layer wants to keep."""
        from stabfw_accelerators.lvpruning.decision import decided_by

        return decided_by(self._modules[layer], keep_ratio)

    def at_hand(self, info: ModelInfo) -> Artefact | None:
        """Read the file of the config, or the modules that come with a tiny model."""
        from stabfw_accelerators.lvpruning.artefacts import named, shipped

        config = self.config
        if config.weights is not None:
            return named(config.weights)
        # Whoever asks for another training wants that one.
        if config.training != Training():
            return None
        return shipped(info, self._places(info.layers), config.heads)

    def fitted_by(self) -> Mapping[str, Any]:
        """All but the share that is kept in the end, positions and a file of weights."""
        return self.config.model_dump(mode="json", include={"layers", "heads", "training"})

    def fit(self, model: LoadedModel, data: FitData) -> Artefact:
        """Train the modules; the model stays as it is."""
        from stabfw_accelerators.lvpruning.training import train

        layers = self._places(model.info.layers)
        return Artefact(train(model, data, layers, self.config.heads, self.config.training))

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Drop tokens until the patch ends."""
        from stabfw_accelerators.lvpruning.artefacts import load

        assert artefact is not None, "needs_fit"
        self._modules = load(artefact.data, model, self._places(model.info.layers))
        super().attach(model, artefact, patch)

    def _places(self, layers: int | None) -> tuple[int, ...]:
        return tuple(self.config.placed(layers))


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `lvpruning`."""
    register("lvpruning", LVPruning)
