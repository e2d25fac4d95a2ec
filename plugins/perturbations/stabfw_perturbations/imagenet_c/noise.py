"""Noise of the sensor and of bits that flip. Strengths by severity 1 to 5 are in the tables."""

from __future__ import annotations

import numpy as np

from stabfw_perturbations.imagenet_c.pixels import Pixels, to_pixels, to_values

#: Standard deviation, for values in [0, 1].
GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)
#: Photons that white stands for.
SHOT = (60, 25, 12, 5, 3)
#: Share of values that turn black or white.
IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)
#: Standard deviation as a share of the value itself.
SPECKLE = (0.15, 0.2, 0.35, 0.45, 0.6)


def gaussian_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add independent normal noise to every channel of every pixel."""
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    levels = pixels + noise * np.float32(255 * GAUSSIAN[severity - 1])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def shot_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Count photons: a Poisson variable for every channel of every pixel."""
    photons = SHOT[severity - 1]
    return to_pixels(rng.poisson(to_values(pixels) * photons) / photons)


def impulse_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Turn some channels of some pixels black or white, each with equal chance."""
    chance = rng.random(pixels.shape, dtype=np.float32)
    amount = IMPULSE[severity - 1]
    changed = pixels.copy()
    changed[chance < amount] = 255
    changed[chance < amount / 2] = 0
    return changed


def speckle_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add normal noise in proportion to the value."""
    values = to_values(pixels)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    return to_pixels(values + values * noise * np.float32(SPECKLE[severity - 1]))
