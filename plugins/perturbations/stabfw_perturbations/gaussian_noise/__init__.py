"""Perturbation `gaussian-noise`: sensor noise of five published strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Standard deviation of the noise by severity, for pixels in [0, 1].
SIGMAS = (0.0, 0.08, 0.12, 0.18, 0.26, 0.38)


class GaussianNoiseConfig(PerturbationConfig):
    """Config of `gaussian-noise`."""

    severity: int = Field(
        default=3, ge=0, le=5, description="0 changes nothing, 5 is the strongest."
    )


class GaussianNoise(Perturbation[GaussianNoiseConfig]):
    """Adds independent Gaussian noise to every channel of every pixel.

    The strengths are those of ImageNet-C (Hendrycks and Dietterich, 2019, "Benchmarking Neural
    Network Robustness to Common Corruptions and Perturbations"), chosen there for pictures of
    224 x 224 pixels. The noise is added at the picture's own size, before the model's resizing
    averages part of it away, so one severity is weaker on a larger picture. Values are rounded
    to the nearest level, where the original truncates.
    """

    config_cls: ClassVar[type[GaussianNoiseConfig]] = GaussianNoiseConfig
    modality: ClassVar[Modality] = Modality.IMAGE

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with noise on each of its pictures.

        Raises:
            DataError: If a picture cannot be read.
        """
        sigma = SIGMAS[self.config.severity]
        if sigma == 0:
            return instance
        return instance.with_pixels(lambda pixels: _add_noise(pixels, sigma, rng))


def _add_noise(
    pixels: NDArray[np.uint8], sigma: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    import numpy as np

    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(255 * sigma)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `gaussian-noise`."""
    register("gaussian-noise", GaussianNoise)
