"""What image perturbations of six severities have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from stabfw.components import Instance, Modality, Perturbation, PerturbationConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


class SeverityConfig(PerturbationConfig):
    """Config of a perturbation whose strengths are published or listed as severities."""

    severity: int = Field(
        default=3, ge=0, le=5, description="0 changes nothing, 5 is the strongest."
    )


class ImagePerturbation(Perturbation[SeverityConfig]):
    """Changes each picture of an instance by one severity, and leaves the text alone."""

    config_cls: ClassVar[type[SeverityConfig]] = SeverityConfig
    modality: ClassVar[Modality] = Modality.IMAGE

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with each picture changed, drawing anew for each.

        Raises:
            DataError: If a picture cannot be read.
        """
        severity = self.config.severity
        if severity == 0:
            return instance
        return instance.with_pixels(lambda pixels: self.change(pixels, severity, rng))

    @abstractmethod
    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return a changed copy of a picture.

        Args:
            pixels: RGB, uint8 of shape (height, width, 3); it may be read-only.
            severity: 1 to 5.
            rng: The only source of randomness.
        """
