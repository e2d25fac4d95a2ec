"""Turned, cut, hidden and shrunk pictures are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from stabfw.components import AnswerKind
from stabfw_perturbations.geometry import Crop, Occlusion, Resolution, Rotation
from stabfw_perturbations.severity import ImagePerturbation, SeverityConfig

SEVERITIES = range(1, 6)


def changed(cls: type[ImagePerturbation], pixels: np.ndarray, severity: int, seed: int = 0):
    return cls(SeverityConfig()).change(pixels, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80)])
def test_rotation_keeps_all_corners(severity: int, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 255, np.uint8)
    for rows in (slice(0, 12), slice(-12, None)):
        for columns in (slice(0, 12), slice(-12, None)):
            pixels[rows, columns] = 0
    turned = changed(Rotation, pixels, severity)
    assert turned.shape == pixels.shape
    scale = (turned != 128).all(2).mean()
    black = (turned < 40).all(2).sum()
    assert black == pytest.approx(scale * 4 * 144, rel=0.15)


def test_rotation_turns_by_the_angle_to_both_sides() -> None:
    # A bright dot right of the centre moves up or down; its angle is the rotation's.
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[49:52, 88:91] = 255
    angles = set()
    for seed in range(10):
        turned = changed(Rotation, pixels, 4, seed)[..., 0].astype(float)
        turned[turned < 160] = 0
        rows, columns = np.mgrid[:101, :101]
        y = (turned * rows).sum() / turned.sum() - 50
        x = (turned * columns).sum() / turned.sum() - 50
        angles.add(round(float(np.degrees(np.arctan2(y, x)))))
    assert angles == {-15, 15}


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.95, 0.9, 0.8, 0.7, 0.6), 1)))
def test_crop_shows_the_share_of_each_side(severity: int, share: float) -> None:
    # Grey levels tell the place: they rise by one a pixel from left to right.
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, axis=0)
    pixels = np.repeat(ramp, 3, axis=2)
    seen = [changed(Crop, pixels, severity, seed) for seed in range(6)]
    assert all(cut.shape == pixels.shape for cut in seen)
    for cut in seen:
        assert float(cut.max()) - float(cut.min()) == pytest.approx(share * 200, abs=4)
    assert len({int(cut.min()) for cut in seen}) > 1


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.05, 0.1, 0.2, 0.3, 0.4), 1)))
def test_occlusion_hides_the_share_of_the_area_and_nothing_else(
    severity: int, share: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (120, 200, 3), dtype=np.uint8)
    hidden = changed(Occlusion, pixels, severity)
    grey = (hidden == 128).all(2)
    assert grey.mean() == pytest.approx(share, rel=0.03)
    assert (hidden[~grey] == pixels[~grey]).all()


def test_occlusion_may_be_anywhere() -> None:
    pixels = np.zeros((120, 200, 3), np.uint8)
    hits = sum((changed(Occlusion, pixels, 2, seed) == 128).all(2) for seed in range(200))
    # Everywhere but in the corners, where only one place of the rectangle reaches.
    assert (hits[20:-20, 20:-20] > 0).all()
    assert hits.max() < 60


@pytest.mark.parametrize(
    ("severity", "size"),
    list(enumerate([(300, 600), (200, 400), (150, 300), (100, 200), (50, 100)], 1)),
)
def test_resolution_leaves_the_share_of_each_side(severity: int, size: tuple[int, int]) -> None:
    pixels = np.full((400, 800, 3), 77, np.uint8)
    small = changed(Resolution, pixels, severity)
    assert small.shape == (*size, 3)
    assert (small == 77).all()


def test_resolution_stops_at_32_pixels() -> None:
    assert changed(Resolution, np.zeros((64, 128, 3), np.uint8), 5).shape == (32, 64, 3)
    assert changed(Resolution, np.zeros((20, 30, 3), np.uint8), 5).shape == (20, 30, 3)


def test_where_labels_hold() -> None:
    config = SeverityConfig(severity=1)
    holding = {cls: cls(config) for cls in (Rotation, Resolution)}
    assert all(p.preserves_label(kind) for p in holding.values() for kind in AnswerKind)
    for cls in (Crop, Occlusion):
        assert not any(cls(config).preserves_label(kind) for kind in AnswerKind)
        assert cls(SeverityConfig(severity=0)).preserves_label(AnswerKind.CHOICE)
