"""Turn, cut, hide and shrink pictures. Strengths by severity 1 to 5 are in the tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

if TYPE_CHECKING:
    from stabfw_perturbations.severity import Pixels

#: Degrees.
ROTATION = (3, 6, 10, 15, 25)
#: Share of each side that is kept.
CROP = (0.95, 0.9, 0.8, 0.7, 0.6)
#: Share of the area that is hidden.
OCCLUSION = (0.05, 0.1, 0.2, 0.3, 0.4)
#: Share of each side that is left.
RESOLUTION = (0.75, 0.5, 0.375, 0.25, 0.125)
#: Pictures are made no smaller than this, in pixels; processors refuse smaller ones.
SMALLEST = 32

_GREY = 128


def rotation(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Turn a picture to a random side, and shrink it so that all of it stays within its frame."""
    angle = math.radians(ROTATION[severity - 1]) * rng.choice((-1, 1))
    height, width, _ = pixels.shape
    cos, sin = math.cos(angle), math.sin(angle)
    # The box around the turned picture, in units of the frame.
    scale = max(
        (width * cos + height * abs(sin)) / width, (height * cos + width * abs(sin)) / height
    )
    # Pillow asks for every pixel of the result where it lies in the original.
    x, y = width / 2, height / 2
    matrix = (
        *(scale * cos, scale * sin, x - scale * (cos * x + sin * y)),
        *(-scale * sin, scale * cos, y - scale * (cos * y - sin * x)),
    )
    turned = PillowImage.fromarray(pixels).transform(
        (width, height),
        PillowImage.Transform.AFFINE,
        matrix,
        PillowImage.Resampling.BICUBIC,
        fillcolor=(_GREY, _GREY, _GREY),
    )
    return np.array(turned)


def crop(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Cut out a part of the same shape, at a random place, and enlarge it by bicubic filter."""
    share = CROP[severity - 1]
    height, width, _ = pixels.shape
    left, top = rng.random(2) * (1 - share) * (width, height)
    box = (left, top, min(left + share * width, width), min(top + share * height, height))
    picture = PillowImage.fromarray(pixels)
    return np.array(picture.resize((width, height), PillowImage.Resampling.BICUBIC, box=box))


def occlusion(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Paint a grey rectangle of the picture's shape at a random place."""
    side = math.sqrt(OCCLUSION[severity - 1])
    height, width, _ = pixels.shape
    tall, wide = max(1, round(side * height)), max(1, round(side * width))
    top, left = (int(rng.integers(free + 1)) for free in (height - tall, width - wide))
    hidden = pixels.copy()
    hidden[top : top + tall, left : left + wide] = _GREY
    return hidden


def resolution(pixels: Pixels, severity: int) -> Pixels:
    """Shrink a picture with an antialiasing filter (Lanczos), down to 32 pixels a side."""
    share = RESOLUTION[severity - 1]
    height, width, _ = pixels.shape
    share = max(share, min(1, SMALLEST / min(height, width)))
    if share == 1:
        return pixels.copy()
    small = (round(width * share), round(height * share))
    return np.array(PillowImage.fromarray(pixels).resize(small, PillowImage.Resampling.LANCZOS))
