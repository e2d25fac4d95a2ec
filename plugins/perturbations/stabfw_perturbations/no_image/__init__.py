"""Perturbation `no-image`: the picture is removed, to see what the text alone gives away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from stabfw.components import Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    import numpy as np

_GREY = 128


class NoImageConfig(PerturbationConfig):
    """Config of `no-image`, which has no parameters."""


class NoImage(Perturbation[NoImageConfig]):
    """Replaces each picture by mid-grey of the same size: a control, not a corruption.

    The prompt keeps its number of visual tokens, so only the content is gone. A grey picture is
    still an input that some models call "a grey square"; that is an answer like any other.

    The question's gold answer stays the reference (`preserves_label` is True) on purpose: the
    accuracy that is left is what can be guessed without looking. A baseline that is no better
    than this does not use its images, and its divergence then says little.
    """

    config_cls: ClassVar[type[NoImageConfig]] = NoImageConfig
    modality: ClassVar[Modality] = Modality.IMAGE

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with grey pictures; `rng` is not used.

        Raises:
            DataError: If a picture cannot be read.
        """
        import numpy as np

        return instance.with_pixels(lambda pixels: np.full_like(pixels, _GREY))


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `no-image`."""
    register("no-image", NoImage)
