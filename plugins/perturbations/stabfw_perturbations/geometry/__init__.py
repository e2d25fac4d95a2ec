"""Perturbations `rotation`, `crop`, `occlusion`, `resolution`: how a picture was taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stabfw.components import AnswerKind, Perturbation
from stabfw.registry import hookimpl

from stabfw_perturbations.severity import ImagePerturbation

if TYPE_CHECKING:
    import numpy as np

    from stabfw_perturbations.severity import Pixels


class Rotation(ImagePerturbation):
    """Turns the picture about its centre, by 3, 6, 10, 15 or 25 degrees to either side.

    It is made smaller just as much as is needed for its corners to stay within the frame, which is
    grey beside it. Nothing is lost, and what is left of another thing stays so: labels hold.
    """

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture turned, of the same size."""
        from stabfw_perturbations.geometry.methods import rotation

        return rotation(pixels, severity, rng)


class Crop(ImagePerturbation):
    """Cuts out 95, 90, 80, 70 or 60 % of each side at a random place, and enlarges it again.

    What is cut off may be what is asked for, or one of what is counted, so no label holds.
    """

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return a part of the picture, of the same size."""
        from stabfw_perturbations.geometry.methods import crop

        return crop(pixels, severity, rng)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at severity 0."""
        return self.config.severity == 0


class Occlusion(ImagePerturbation):
    """Hides 5, 10, 20, 30 or 40 % of the picture behind a grey rectangle of its shape.

    What is hidden may be what is asked for, so no label holds.
    """

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with a grey rectangle at a random place."""
        from stabfw_perturbations.geometry.methods import occlusion

        return occlusion(pixels, severity, rng)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at severity 0."""
        return self.config.severity == 0


class Resolution(ImagePerturbation):
    """Makes the picture smaller: 3/4, 1/2, 3/8, 1/4 or 1/8 of each side, at least 32 pixels.

    It stays small. Models of fixed resolution enlarge it again; others see fewer visual tokens.
    """

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture smaller; one that is small enough stays as it is."""
        from stabfw_perturbations.geometry.methods import resolution

        return resolution(pixels, severity)


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `rotation`, `crop`, `occlusion` and `resolution`."""
    register("rotation", Rotation)
    register("crop", Crop)
    register("occlusion", Occlusion)
    register("resolution", Resolution)
