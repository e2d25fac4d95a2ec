"""Pixels as numbers in [0, 1] and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


def to_values(pixels: Pixels) -> Values:
    """Return levels 0..255 as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def to_pixels(values: NDArray[np.floating[Any]]) -> Pixels:
    """Clip values to [0, 1] and round them to the nearest level, where the original truncates."""
    pixels: Pixels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return pixels


def grey(values: NDArray[Any]) -> NDArray[Any]:
    """Luma of ITU-R BT.601, of shape (height, width)."""
    return values @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
