"""Contract of an accelerator: anything that makes a model cheaper and should keep its answers."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from stabfw.components.base import Component, ComponentConfig
from stabfw.components.fitting import FitData
from stabfw.components.model import GenerationOptions, LoadedModel, LoadRequest, ModelInfo

if TYPE_CHECKING:
    from stabfw.components.patch import Patch


class Slot(enum.StrEnum):
    """Parts of a model that only one member of a stack may change."""

    WEIGHTS = "weights"
    ATTENTION = "attention"
    KV_CACHE = "kv-cache"
    VISUAL_TOKENS = "visual-tokens"
    DECODING = "decoding"


class Fidelity(enum.StrEnum):
    """How close an implementation is to the authors' own."""

    FAITHFUL = "faithful"
    ADAPTED = "adapted"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Artefact:
    """What `fit` produced: calibration statistics, a chosen layer, trained weights."""

    data: bytes

    @property
    def digest(self) -> str:
        """sha256 of the data; it enters the keys of all cells that use the artefact."""
        return hashlib.sha256(self.data).hexdigest()


class AcceleratorConfig(ComponentConfig):
    """Base of accelerator configs."""


A = TypeVar("A", bound=AcceleratorConfig)


class Accelerator(Component[A]):
    """One member of a stack. Override what the method needs; everything else does nothing.

    The calls come in this order: `on_load`, loading, `fit` (if `needs_fit`, on a throw-away
    load), `transform`, `attach`, then for every batch `on_generate`, and `report` at the end.

    Attributes:
        occupies: What it changes. Two members of a stack must not share a slot.
        alters: Fields of `LoadRequest` whose change *is* the acceleration. Any other field that
            `on_load` changes is a circumstance which a matched baseline shares.
        expects_identical: Whether answers should stay exactly the same (lossless in theory).
        fidelity: How close this is to the authors' implementation.
        needs_fit: Whether `fit` must run before `transform` and `attach`.
    """

    occupies: ClassVar[frozenset[Slot]]
    alters: ClassVar[frozenset[str]] = frozenset()
    expects_identical: ClassVar[bool] = False
    fidelity: ClassVar[Fidelity] = Fidelity.UNVERIFIED
    needs_fit: ClassVar[bool] = False

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Say why this cannot work on a model, or None if it can. Must not import torch."""
        return None

    def fidelity_on(self, info: ModelInfo) -> Fidelity:
        """Tell how close this is to the authors' implementation on a model. Must not import torch.

        The default is `fidelity`, for methods that do not depend on the family.
        """
        return self.fidelity

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Change how the model is loaded. Pure."""
        return request

    def at_hand(self, info: ModelInfo) -> Artefact | None:
        """Return an artefact that needs no fit: a file of the user's, or one that comes along.

        Only asked if `needs_fit`. Must not import torch.

        Raises:
            DataError: If a file that the config names is missing or not for this model.
        """
        return None

    def fitted_by(self) -> Mapping[str, Any]:
        """The part of the config on which `fit` depends; the default is all of it.

        Configs that differ only elsewhere share an artefact.
        """
        return self.config.model_dump(mode="json", exclude={"type"})

    def fit(self, model: LoadedModel, data: FitData) -> Artefact:
        """Calibrate, search or train on a model that is thrown away afterwards."""
        raise NotImplementedError(f"{type(self).__name__} sets needs_fit but has no fit()")

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Change the model for good, as quantizers do. Part of the load key."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Change the model through `patch`, which undoes every edit afterwards."""

    def on_generate(self, options: GenerationOptions) -> GenerationOptions:
        """Change how answers are generated while this is attached. Pure."""
        return options

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell what was done, as JSON-compatible values: bytes, layers, kept tokens.

        The key `engaged` must be present: True if it changed the computation, False if it did
        nothing (the run then fails), or a string saying why it was not exercised.
        """
        return {"engaged": True}

    def control(self) -> tuple[str, Mapping[str, Any]] | None:
        """Name an accelerator and its config that spends the same budget blindly, if there is one.

        It is run beside this one when the spec asks for `equal_budget` controls.
        """
        return None
