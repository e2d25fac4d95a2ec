"""What exposure, colour, storage and warping do. Strengths by severity 1 to 5 are in the tables."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter, map_coordinates

from stabfw_perturbations.imagenet_c.pixels import Pixels, Values, to_pixels, to_values

#: Added to the value of HSV.
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
#: What is left of the distance to the mean colour.
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
#: Factor of the saturation of HSV, and what is added to it.
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
#: Quality of the encoder.
JPEG = (25, 18, 15, 10, 7)
#: Pixels that are left of each side.
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
#: Factor of the smoothed displacements.
ELASTIC = (12.5, 16.25, 21.25, 25.0, 30.0)


def brightness(pixels: Pixels, severity: int) -> Pixels:
    """Raise the value of HSV; hue and saturation stay."""
    values = to_values(pixels)
    value = values.max(axis=2, keepdims=True)
    brighter = np.minimum(value + np.float32(BRIGHTNESS[severity - 1]), 1)
    # Black has no hue, so it turns grey.
    shade = np.divide(values, value, out=np.ones_like(values), where=value > 0)
    return to_pixels(shade * brighter)


def contrast(pixels: Pixels, severity: int) -> Pixels:
    """Draw all colours towards the mean colour of the picture."""
    values = to_values(pixels)
    mean = values.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
    return to_pixels((values - mean) * np.float32(CONTRAST[severity - 1]) + mean)


def saturate(pixels: Pixels, severity: int) -> Pixels:
    """Change the saturation of HSV; hue and value stay.

    Severities 1 and 2 take colour away, 3 to 5 add it. Grey has hue 0, so that 4 and 5 tint it
    red, as in the original.
    """
    factor, offset = SATURATE[severity - 1]
    values = to_values(pixels)
    value = values.max(axis=2, keepdims=True)
    chroma = value - values.min(axis=2, keepdims=True)
    saturation = np.divide(chroma, value, out=np.zeros_like(value), where=value > 0)
    wanted = np.clip(saturation * np.float32(factor) + np.float32(offset), 0, 1)
    # How far each channel lies below the value, as a share of the farthest.
    red = np.broadcast_to(np.array([0, 1, 1], dtype=np.float32), values.shape)
    below = np.divide(value - values, chroma, out=red.copy(), where=chroma > 0)
    return to_pixels(value * (1 - wanted * below))


def jpeg(pixels: Pixels, severity: int) -> Pixels:
    """Encode as JPEG and decode again."""
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, "JPEG", quality=JPEG[severity - 1])
    with PillowImage.open(stream) as picture:
        return np.array(picture.convert("RGB"))


def pixelate(pixels: Pixels, severity: int) -> Pixels:
    """Make the picture smaller by averaging, and as large as before in squares."""
    share = PIXELATE[severity - 1]
    picture = PillowImage.fromarray(pixels)
    width, height = picture.size
    small = (max(1, int(width * share)), max(1, int(height * share)))
    reduced = picture.resize(small, PillowImage.Resampling.BOX)
    return np.array(reduced.resize((width, height), PillowImage.Resampling.NEAREST))


def elastic(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Displace every pixel by random steps that were smoothed over 1 % of height and width."""
    height, width, _ = pixels.shape
    reach = 0.005 * height * ELASTIC[severity - 1]
    rows, columns = (
        axis + _smooth(rng.uniform(-reach, reach, size=(height, width)))
        for axis in np.mgrid[:height, :width]
    )
    values = to_values(pixels)
    channels = [
        map_coordinates(values[..., channel], (rows, columns), order=1, mode="reflect")
        for channel in range(3)
    ]
    return to_pixels(np.stack(channels, axis=2))


def _smooth(steps: np.ndarray) -> Values:
    sigma = tuple(0.01 * side for side in steps.shape)
    smooth: Values = gaussian_filter(steps, sigma, mode="reflect", truncate=3).astype(np.float32)
    return smooth
