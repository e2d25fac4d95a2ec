"""Perturbation `other-image`: the question is put about the picture of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, ClassVar

from stabfw.components import AnswerKind, Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    import numpy as np


class OtherImageConfig(PerturbationConfig):
    """Config of `other-image`, which has no parameters."""


class OtherImage(Perturbation[OtherImageConfig]):
    """Shows the pictures of another question of the same split, drawn at random.

    An instance keeps its number of pictures; those of the other one are repeated where it has
    fewer. Where no question has other pictures, nothing changes. What is right for one picture is
    not for another, so no label holds; with `gold_holds: true` the accuracy that is left is what a
    picture of the wrong thing leaves, as a control beside `no-image`.
    """

    config_cls: ClassVar[type[OtherImageConfig]] = OtherImageConfig
    modality: ClassVar[Modality] = Modality.IMAGE
    takes_from_another: ClassVar[bool] = True

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance as it is: there is no other."""
        return instance

    def perturb_with(
        self, instance: Instance, other: Instance, rng: np.random.Generator
    ) -> Instance:
        """Return the instance with the pictures of the other; `rng` is not used."""
        shown = zip(instance.images, cycle(other.images), strict=False)
        return replace(instance, images=tuple(image for _, image in shown))

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Never."""
        return False


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `other-image`."""
    register("other-image", OtherImage)
