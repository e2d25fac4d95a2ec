"""Weather that is drawn, not photographed. Strengths by severity 1 to 5 are in the tables."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage

from stabfw_perturbations.imagenet_c.blur import smear, zoomed
from stabfw_perturbations.imagenet_c.pixels import Pixels, Values, grey, to_pixels, to_values

#: Density, and by how much coarse swathes outweigh fine ones.
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
#: Mean and standard deviation of the flakes, their size, the threshold below which there is none,
#: radius and standard deviation of their fall in pixels, and how much of the picture stays.
SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)


def fog(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add swathes of white and scale back to the brightness of the picture."""
    density, decay = FOG[severity - 1]
    values = to_values(pixels)
    height, width, _ = pixels.shape
    brightest = values.max()
    swathes = plasma(max(height, width), decay, rng)[:height, :width, None]
    return to_pixels((values + density * swathes) * brightest / (brightest + density))


def snow(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Whiten the picture, and let flakes fall on it in two opposite directions."""
    mean, spread, size, threshold, radius, sigma, kept = SNOW[severity - 1]
    values = to_values(pixels)
    flakes = rng.normal(mean, spread, size=pixels.shape[:2]).astype(np.float32)
    flakes = np.array(zoomed(PillowImage.fromarray(flakes), size))
    flakes[flakes < threshold] = 0
    flakes = smear(np.clip(flakes, 0, 1)[..., None], radius, sigma, rng.uniform(-135, -45))
    white = np.maximum(values, grey(values)[..., None] * np.float32(1.5) + np.float32(0.5))
    return to_pixels(kept * values + (1 - kept) * white + flakes + flakes[::-1, ::-1])


def plasma(size: int, decay: float, rng: np.random.Generator) -> Values:
    """Draw a cloud by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982).

    Args:
        size: Least side of the cloud, which is the next power of two. It joins at its edges.
        decay: Displacements shrink by the square of it each time the grid gets twice as fine.
        rng: Source of randomness.

    Returns:
        Square array with least value 0 and greatest value 1.
    """
    side = 1 << max(1, (size - 1).bit_length())
    cloud = np.zeros((side, side))
    step, reach = side, 1.0
    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        mean = sum(
            np.roll(corners, shift, (0, 1)) for shift in ((0, 0), (-1, 0), (0, -1), (-1, -1))
        )
        middles = mean / 4 + rng.uniform(-reach, reach, corners.shape)
        cloud[half::step, half::step] = middles
        # The middle of an edge lies between two corners and the middles of two squares.
        for axis in (0, 1):
            mean = corners + np.roll(corners, -1, axis) + middles + np.roll(middles, 1, 1 - axis)
            edges = mean / 4 + rng.uniform(-reach, reach, corners.shape)
            cloud[half * (axis == 0) :: step, half * (axis == 1) :: step] = edges
        step, reach = half, reach / decay**2
    cloud -= cloud.min()
    cloud /= cloud.max()
    return cloud.astype(np.float32)
