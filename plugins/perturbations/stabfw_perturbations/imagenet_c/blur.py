"""Blurs of lens, glass, hand and zoom. Strengths by severity 1 to 5 are in the tables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import convolve1d, gaussian_filter
from scipy.signal import fftconvolve

from stabfw_perturbations.imagenet_c.pixels import Pixels, Values, to_pixels, to_values

#: Radius of the disk, and standard deviation by which its edge is smoothed.
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
#: Standard deviation of the blur before and after, reach of a step, and rounds.
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
#: Radius (the path has 2 r + 1 steps) and standard deviation along the path.
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
#: Step from one zoom factor to the next, and number of factors, of which the first is 1.
ZOOM = ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))
#: Standard deviation.
GAUSSIAN = (1, 2, 3, 4, 6)


def defocus_blur(pixels: Pixels, severity: int) -> Pixels:
    """Spread every point over a disk, as a lens does that is out of focus."""
    radius, smoothing = DEFOCUS[severity - 1]
    kernel = _disk(radius, smoothing)
    reach = kernel.shape[0] // 2
    padded = np.pad(to_values(pixels), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return to_pixels(fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def glass_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Replace every pixel by a near one, between two Gaussian blurs, as frosted glass does.

    The paper speaks of pixels that are swapped. What made ImageNet-C copies one over the other,
    which is a little stronger; so does this.
    """
    sigma, reach, rounds = GLASS[severity - 1]
    blurred = _gaussian(pixels, sigma)
    height, width, _ = pixels.shape
    # Each copy is made of what the ones before left, from the lower right to the upper left.
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    here = (rows[:, None] * width + columns).ravel()
    order = list(range(height * width))
    for _ in range(rounds):
        steps = rng.integers(-reach, reach, size=(2, here.size))
        there = here + steps[0] * width + steps[1]
        for a, b in zip(here.tolist(), there.tolist(), strict=True):
            order[a] = order[b]
    return _gaussian(blurred.reshape(-1, 3)[order].reshape(pixels.shape), sigma)


def motion_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Smear the picture along one direction, at most 45 degrees from the horizontal."""
    radius, sigma = MOTION[severity - 1]
    return to_pixels(smear(to_values(pixels), radius, sigma, rng.uniform(-45, 45)))


def zoom_blur(pixels: Pixels, severity: int) -> Pixels:
    """Average the picture with itself, zoomed in step by step."""
    step, count = ZOOM[severity - 1]
    picture = PillowImage.fromarray(pixels)
    total = pixels.astype(np.float32)
    for factor in 1 + step * np.arange(count):
        total += np.asarray(zoomed(picture, float(factor)), dtype=np.float32)
    return to_pixels(total / (255 * (count + 1)))


def gaussian_blur(pixels: Pixels, severity: int) -> Pixels:
    """Blur by a Gaussian."""
    return _gaussian(pixels, GAUSSIAN[severity - 1])


def smear(values: Values, radius: int, sigma: float, angle: float) -> Values:
    """Average shifted copies, with the weights of half a Gaussian that starts where a point is.

    Args:
        values: Of shape (height, width, channels). What lies beyond an edge repeats it.
        radius: The path has 2 radius + 1 steps of a pixel.
        sigma: Standard deviation along the path, in pixels.
        angle: Of the path, in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = values.shape[:2]
    pad = len(steps)
    padded = np.pad(values, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    smeared = np.zeros_like(values)
    for step, weight in zip(steps.tolist(), weights.tolist(), strict=True):
        top = pad + math.ceil(step * down - 0.5)
        left = pad + math.ceil(step * right - 0.5)
        smeared += np.float32(weight) * padded[top : top + height, left : left + width]
    return smeared


def zoomed(picture: PillowImage.Image, factor: float) -> PillowImage.Image:
    """Enlarge the middle of a picture to its whole size, by bilinear interpolation."""
    width, height = picture.size
    left, top = (width - width / factor) / 2, (height - height / factor) / 2
    box = (left, top, width - left, height - top)
    return picture.resize((width, height), PillowImage.Resampling.BILINEAR, box=box)


def _gaussian(pixels: Pixels, sigma: float) -> Pixels:
    values = gaussian_filter(to_values(pixels), sigma=(sigma, sigma, 0), mode="nearest")
    return to_pixels(values)


def _disk(radius: int, smoothing: float) -> NDArray[np.float64]:
    """A disk that sums to 1, its edge smoothed by a Gaussian of three or five taps."""
    reach, taps = max(8, radius), 1 if radius <= 8 else 2
    axis = np.arange(-reach, reach + 1)
    disk: NDArray[np.float64] = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float64)
    weights = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * smoothing**2))
    weights /= weights.sum()
    for side in (0, 1):
        disk = convolve1d(disk, weights, axis=side, mode="mirror")
    # The original lets a disk that reaches its grid's edge sum to 1.01, and brightens by as much.
    disk /= disk.sum()
    return disk
