"""The noise has the published strength and grows with severity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from stabfw.components import Image, Instance
from stabfw_perturbations.gaussian_noise import SIGMAS, GaussianNoise, GaussianNoiseConfig


def noisy(severity: int, level: int = 128) -> np.ndarray:
    pixels = np.full((64, 64, 3), level, np.uint8)
    item = Instance.create((Image.from_pixels(pixels),), "?", native_id=0)
    perturbed = GaussianNoise(GaussianNoiseConfig(severity=severity)).perturb(
        item, np.random.default_rng(0)
    )
    return perturbed.images[0].pixels.astype(float)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_standard_deviation_is_the_published_one(severity: int) -> None:
    # From severity 4 on, clipping at black and white narrows the spread.
    noise = noisy(severity) - 128
    assert noise.std() == pytest.approx(255 * SIGMAS[severity], rel=0.03)
    assert abs(noise.mean()) < 2


def test_psnr_falls_with_every_severity() -> None:
    errors = [np.mean((noisy(severity) - 128) ** 2) for severity in range(1, 6)]
    psnr = [10 * np.log10(255**2 / error) for error in errors]
    assert all(a - b > 1 for a, b in itertools.pairwise(psnr))


def test_values_are_clipped_not_wrapped() -> None:
    assert np.median(noisy(1, level=0)) < 30
    assert np.median(noisy(1, level=255)) > 225


@pytest.mark.parametrize("severity", [-1, 6])
def test_severity_out_of_range_is_refused(severity: int) -> None:
    with pytest.raises(ValueError, match="severity"):
        GaussianNoiseConfig(severity=severity)
