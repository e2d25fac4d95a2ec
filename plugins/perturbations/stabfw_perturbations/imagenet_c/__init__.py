"""Corruptions of ImageNet-C, each a perturbation of its own, in five published strengths.

They are those of Hendrycks and Dietterich (2019), "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (arXiv:1903.12261), written anew from the description and the
parameters; `elastic-transform` has the parameters of Michaelis et al. (2019), "Benchmarking
Robustness in Object Detection" (arXiv:1907.07484), which follow the size of the picture. Frost and
spatter are left out: one needs photographs, the other the operations of a vision library.

The strengths were chosen for pictures of 224 x 224 pixels, and most are told in pixels. They are
applied as they are at the picture's own size, before the model's resizing averages part of them
away, so a severity of noise or blur is weaker on a larger picture.

numpy and scipy are imported when a picture is changed, so that reading a spec stays quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stabfw.components import AnswerKind, Perturbation
from stabfw.registry import hookimpl

from stabfw_perturbations.severity import ImagePerturbation

if TYPE_CHECKING:
    import numpy as np

    from stabfw_perturbations.severity import Pixels


class GaussianNoise(ImagePerturbation):
    """Adds independent normal noise to every channel of every pixel."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with gaussian noise."""
        from stabfw_perturbations.imagenet_c.noise import gaussian_noise

        return gaussian_noise(pixels, severity, rng)


class ShotNoise(ImagePerturbation):
    """Counts photons: the darker the light, the coarser the picture."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with shot noise."""
        from stabfw_perturbations.imagenet_c.noise import shot_noise

        return shot_noise(pixels, severity, rng)


class ImpulseNoise(ImagePerturbation):
    """Turns some channels of some pixels black or white, as flipped bits do."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with impulse noise."""
        from stabfw_perturbations.imagenet_c.noise import impulse_noise

        return impulse_noise(pixels, severity, rng)


class SpeckleNoise(ImagePerturbation):
    """Adds normal noise in proportion to the brightness."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with speckle noise."""
        from stabfw_perturbations.imagenet_c.noise import speckle_noise

        return speckle_noise(pixels, severity, rng)


class DefocusBlur(ImagePerturbation):
    """Spreads every point over a disk, as a lens out of focus does."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with defocus blur."""
        from stabfw_perturbations.imagenet_c.blur import defocus_blur

        return defocus_blur(pixels, severity)


class GlassBlur(ImagePerturbation):
    """Replaces pixels by near ones, as frosted glass does."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with glass blur."""
        from stabfw_perturbations.imagenet_c.blur import glass_blur

        return glass_blur(pixels, severity, rng)


class MotionBlur(ImagePerturbation):
    """Smears the picture along a path, as a moving camera does."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with motion blur."""
        from stabfw_perturbations.imagenet_c.blur import motion_blur

        return motion_blur(pixels, severity, rng)


class ZoomBlur(ImagePerturbation):
    """Averages the picture with enlarged copies, as zooming does."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with zoom blur."""
        from stabfw_perturbations.imagenet_c.blur import zoom_blur

        return zoom_blur(pixels, severity)


class GaussianBlur(ImagePerturbation):
    """Blurs by a Gaussian."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with gaussian blur."""
        from stabfw_perturbations.imagenet_c.blur import gaussian_blur

        return gaussian_blur(pixels, severity)


class Fog(ImagePerturbation):
    """Lays swathes of white over the picture. The weather is another then, so no label holds."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with fog."""
        from stabfw_perturbations.imagenet_c.weather import fog

        return fog(pixels, severity, rng)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at severity 0: what is asked may be the weather."""
        return self.config.severity == 0


class Snow(ImagePerturbation):
    """Lets snow fall. The weather is another then, so no label holds."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with snow."""
        from stabfw_perturbations.imagenet_c.weather import snow

        return snow(pixels, severity, rng)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at severity 0: what is asked may be the weather."""
        return self.config.severity == 0


class Brightness(ImagePerturbation):
    """Raises the brightness; colours keep hue and saturation."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with brightness."""
        from stabfw_perturbations.imagenet_c.digital import brightness

        return brightness(pixels, severity)


class Contrast(ImagePerturbation):
    """Draws all colours towards the mean colour of the picture."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with contrast."""
        from stabfw_perturbations.imagenet_c.digital import contrast

        return contrast(pixels, severity)


class Saturate(ImagePerturbation):
    """Takes colour away (severities 1 and 2) or adds it (3 to 5), so no label holds."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with saturate."""
        from stabfw_perturbations.imagenet_c.digital import saturate

        return saturate(pixels, severity)

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at severity 0: what is asked may be a colour."""
        return self.config.severity == 0


class Elastic(ImagePerturbation):
    """Warps the picture locally."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with elastic transform."""
        from stabfw_perturbations.imagenet_c.digital import elastic

        return elastic(pixels, severity, rng)


class Pixelate(ImagePerturbation):
    """Shows the picture in coarse squares."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with pixelate."""
        from stabfw_perturbations.imagenet_c.digital import pixelate

        return pixelate(pixels, severity)


class Jpeg(ImagePerturbation):
    """Encodes the picture as JPEG of low quality."""

    def change(self, pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
        """Return the picture with jpeg compression."""
        from stabfw_perturbations.imagenet_c.digital import jpeg

        return jpeg(pixels, severity)


#: By name, in the order of the paper; the last three are extra ones there.
CORRUPTIONS: dict[str, type[ImagePerturbation]] = {
    "gaussian-noise": GaussianNoise,
    "shot-noise": ShotNoise,
    "impulse-noise": ImpulseNoise,
    "defocus-blur": DefocusBlur,
    "glass-blur": GlassBlur,
    "motion-blur": MotionBlur,
    "zoom-blur": ZoomBlur,
    "snow": Snow,
    "fog": Fog,
    "brightness": Brightness,
    "contrast": Contrast,
    "elastic-transform": Elastic,
    "pixelate": Pixelate,
    "jpeg-compression": Jpeg,
    "speckle-noise": SpeckleNoise,
    "gaussian-blur": GaussianBlur,
    "saturate": Saturate,
}


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer each corruption under its name."""
    for name, corruption in CORRUPTIONS.items():
        register(name, corruption)
