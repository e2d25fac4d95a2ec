"""Pictures small enough to be put into a page by the hundred."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 160
_ENLARGE_TO = 128
_EXACT_UP_TO = 8_000


def thumbnail(pixels: NDArray[np.uint8], longest: int = LONGEST) -> bytes:
    """Shrink a picture, or enlarge a tiny one by whole pixels.

    Drawings come out as PNG and so stay exact; photographs and noise, which PNG cannot pack, as
    JPEG.

    Args:
        pixels: RGB, shape (height, width, 3).
        longest: Longest side of the result in pixels.

    Returns:
        A PNG or JPEG file.

    Raises:
        ValueError: If it is not such a picture.

    Example:
        >>> import numpy as np
        >>> thumbnail(np.zeros((64, 64, 3), np.uint8))[1:4]
        b'PNG'
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != "uint8" or not pixels.size:
        raise ValueError(f"not RGB pixels in uint8: shape {pixels.shape}, {pixels.dtype}")
    picture = Image.fromarray(pixels)
    side = max(picture.size)
    if side > longest:
        width, height = (max(1, round(length * longest / side)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    elif (factor := min(_ENLARGE_TO, longest) // side) > 1:
        width, height = (length * factor for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.NEAREST)
    exact = io.BytesIO()
    picture.save(exact, "PNG", optimize=True)
    if exact.tell() <= _EXACT_UP_TO:
        return exact.getvalue()
    lossy = io.BytesIO()
    picture.save(lossy, "JPEG", quality=85, optimize=True)
    return lossy.getvalue()


def media_type(picture: bytes) -> str:
    """Return the media type of a thumbnail."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def data_uri(picture: bytes) -> str:
    """Return a thumbnail as a data URI."""
    import base64

    return f"data:{media_type(picture)};base64,{base64.b64encode(picture).decode()}"
