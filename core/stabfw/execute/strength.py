"""How far a perturbation moved a question from the original, measured on what a model is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stabfw.components import Prompt
from stabfw.store import Strength

if TYPE_CHECKING:
    Pixels = NDArray[np.uint8]

#: The most characters beside common beginning and end that are compared; the time grows with the
#: square of it.
_COMPARED = 4000


def strength(clean: Prompt, perturbed: Prompt) -> Strength:
    """Measure how far a perturbed prompt is from the clean one.

    Pictures are compared one by one in their order; a picture whose size was changed is brought to
    the original's size by bicubic interpolation before it is compared. Values are means over the
    pictures: of the squared error, from which the PSNR follows, and of the SSIM.

    Args:
        clean: The original.
        perturbed: The same instance as it is asked.

    Returns:
        PSNR and SSIM are None where no picture changed. So is the PSNR where nothing differs.

    Raises:
        DataError: If a picture cannot be read.
    """
    errors: list[float] = []
    likeness: list[float] = []
    pairs = list(zip(clean.images, perturbed.images, strict=False))
    if any(old.digest != new.digest for old, new in pairs):
        for old, new in pairs:
            before, after = old.pixels, _of_size(new.pixels, old.pixels.shape)
            errors.append(mean_squared_error(before, after))
            likeness.append(ssim(before, after))
    error = float(np.mean(errors)) if errors else 0.0
    return Strength(
        psnr=10 * float(np.log10(255**2 / error)) if error else None,
        ssim=float(np.mean(likeness)) if likeness else None,
        edits=edit_distance(clean.text, perturbed.text),
    )


def mean_squared_error(a: Pixels, b: Pixels) -> float:
    """Mean over all channels of all pixels, in squared levels of 255."""
    difference = a.astype(np.float32) - b.astype(np.float32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity of two pictures of one size, on luma.

    Wang, Bovik, Sheikh and Simoncelli (2004), "Image Quality Assessment: From Error Visibility to
    Structural Similarity", with their window (Gaussian of 1.5 pixels, 11 x 11) and constants
    (0.01, 0.03). As there, only whole windows count, unless the picture is smaller than one.

    Returns:
        1 for the same picture, less for others.
    """
    from scipy.ndimage import gaussian_filter

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred: NDArray[np.float64] = gaussian_filter(values, 1.5, truncate=3.5, mode="reflect")
        return blurred

    x, y = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    inside = similar[5:-5, 5:-5]
    return float(np.mean(inside if inside.size else similar))


def edit_distance(a: str, b: str) -> int:
    """Least number of characters to insert, delete or replace (Levenshtein, 1966).

    What lies beyond 4,000 characters after the first difference is compared character by character
    only, which may count more.
    """
    begin = next((i for i, (p, q) in enumerate(zip(a, b, strict=False)) if p != q), None)
    if begin is None:
        return abs(len(a) - len(b))
    a, b = a[begin:], b[begin:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    rest_a, rest_b = a[_COMPARED:], b[_COMPARED:]
    rest = sum(p != q for p, q in zip(rest_a, rest_b, strict=False)) + abs(
        len(rest_a) - len(rest_b)
    )
    codes = np.array([ord(letter) for letter in b[:_COMPARED]], dtype=np.int64)
    places = np.arange(len(codes) + 1)
    row = places.copy()
    for letter in a[:_COMPARED]:
        deleted = row + 1
        replaced = row[:-1] + (codes != ord(letter))
        best = np.concatenate(([deleted[0]], np.minimum(deleted[1:], replaced)))
        # An insertion costs one more than the place before it.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1]) + rest


def _of_size(pixels: Pixels, shape: tuple[int, ...]) -> Pixels:
    from PIL import Image as PillowImage

    if pixels.shape == shape:
        return pixels
    size = (shape[1], shape[0])
    resized = PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.BICUBIC)
    return np.asarray(resized)
