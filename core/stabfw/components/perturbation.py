"""Contract of a perturbation: a small change of an instance, the same for every model."""

from __future__ import annotations

import enum
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from stabfw.components.base import Component, ComponentConfig
from stabfw.components.data import AnswerKind, Instance

if TYPE_CHECKING:
    import numpy as np


class Modality(enum.StrEnum):
    """What a perturbation changes."""

    IMAGE = "image"
    TEXT = "text"


class PerturbationConfig(ComponentConfig):
    """Base of perturbation configs."""

    aside: ClassVar[frozenset[str]] = frozenset({"gold_holds"})

    gold_holds: bool | None = Field(
        default=None,
        description="Whether gold answers still hold; null: as the perturbation itself says. "
        "Where they may not, accuracy and losses are not reported.",
    )


P = TypeVar("P", bound=PerturbationConfig)


class Perturbation(Component[P]):
    """Changes an instance before it is rendered.

    Attributes:
        modality: What it changes. The other modality must come back bit-identical.
        takes_from_another: Whether `perturb_with` is to be called, with another instance.
    """

    modality: ClassVar[Modality]
    takes_from_another: ClassVar[bool] = False

    @abstractmethod
    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the changed instance, with the id and the references of the original.

        Args:
            instance: The original; it must not be modified.
            rng: The only source of randomness. It depends on seed, perturbation and instance id,
                so the result depends on neither order, batch nor worker.
        """

    def perturb_with(
        self, instance: Instance, other: Instance, rng: np.random.Generator
    ) -> Instance:
        """Return the changed instance, where something of another one is put into it.

        Called instead of `perturb` if `takes_from_another`, unless there is no other instance.

        Args:
            instance: The original; it must not be modified.
            other: Another instance of the same split, with pictures, none of which is one of the
                original. Which one follows from seed, perturbation and instance.
            rng: The only source of randomness, as for `perturb`.
        """
        return self.perturb(instance, rng)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Whether the gold answer to such a question still holds after the change.

        Where it may not hold, only the divergence of answers is reported, not their accuracy. Say
        True only if it holds for every such question that may be asked: users who know their
        questions can set `gold_holds`.
        """
        return True

    def gold_holds(self, kind: AnswerKind) -> bool:
        """Whether gold answers count: as the user says, else as `preserves_label` does."""
        said = self.config.gold_holds
        return self.preserves_label(kind) if said is None else said
