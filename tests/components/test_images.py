"""Pictures on their way in: what is read, how it is converted, and what is refused."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from stabfw.components import Image
from stabfw.errors import DataError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
FORMATS = ("PNG", "JPEG", "WEBP")


def encoded(picture: PillowImage.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(kind: str, **options: Any) -> bytes:
    return encoded(PillowImage.fromarray(NOISE), kind, **options)


def read(content: bytes) -> np.ndarray:
    return Image.from_bytes(lambda: content, "x").pixels


def mean(pixels: np.ndarray) -> list[int]:
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    return [round(value) for value in pixels.reshape(-1, 3).mean(0)]


def test_pixels_and_digest_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(noise("PNG"))
    image = Image.from_file(file)
    assert (image.pixels == NOISE).all()
    assert image.digest == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_once(kind: str, turn: int) -> None:
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255
    exif = PillowImage.Exif()
    exif[0x0112] = turn
    pixels = read(encoded(PillowImage.fromarray(corner), kind, exif=exif, quality=95))
    assert pixels.shape == ((16, 32, 3) if turn < 5 else (32, 16, 3))
    # Where the upper left corner of what is stored belongs, from the EXIF standard.
    bottom, right = turn in (3, 4, 7, 8), turn in (2, 3, 6, 7)
    bright = pixels[-8:, :] if bottom else pixels[:8, :]
    bright = bright[:, -8:] if right else bright[:, :8]
    assert bright.mean() > 240
    assert (pixels > 128).mean() == pytest.approx(64 / 512, abs=0.02)
    # What was turned upright is not turned again.
    again = read(encoded(PillowImage.fromarray(pixels), "PNG"))
    assert (again == pixels).all()


RED = (200, 20, 30)


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (PillowImage.new("L", (4, 4), 90), "PNG", [90] * 3),
        (PillowImage.new("1", (4, 4), 1), "PNG", [255] * 3),
        (PillowImage.new("RGB", (4, 4), RED).quantize(2), "PNG", [*RED]),
        (PillowImage.new("RGBA", (4, 4), (*RED, 255)), "PNG", [*RED]),
        (PillowImage.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG", [255] * 3),
        (PillowImage.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", [255] * 3),
        (PillowImage.new("RGBA", (4, 4), (0, 100, 0, 51)), "PNG", [204, 224, 204]),
        (PillowImage.new("LA", (4, 4), (0, 0)), "PNG", [255] * 3),
        (PillowImage.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", [255, 0, 0]),
    ],
)
def test_modes_become_rgb(picture: PillowImage.Image, kind: str, expected: list[int]) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert mean(read(encoded(picture, kind, **options))) == expected


def test_transparent_colour_of_a_palette_is_white() -> None:
    picture = PillowImage.new("RGB", (4, 4), RED).quantize(2)
    index = picture.getpixel((0, 0))
    assert mean(read(encoded(picture, "PNG", transparency=index))) == [255] * 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_their_first_frame(kind: str) -> None:
    frames = [PillowImage.new("RGB", (8, 8), (value, 0, 0)) for value in (200, 100)]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    options |= {"lossless": True} if kind == "WEBP" else {}
    assert mean(read(encoded(frames[0], kind, **options))) == [200, 0, 0]


def png(depth: int, colour: int, row: bytes, width: int = 2, height: int = 1) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\x00" + row) * height)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_16_bit_colours_keep_their_upper_half() -> None:
    row = struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0x00FF, 0x7FFF, 0x0100)
    assert read(png(16, 2, row)).tolist() == [[[0x12, 0x80, 0xFF], [0x00, 0x7F, 0x01]]]


@pytest.mark.parametrize("values", [(0, 65535), (300, 4095)])
def test_16_bit_grey_is_refused_with_advice(values: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"x: not a readable image \(its grey values have 16 bits"):
        read(png(16, 0, struct.pack(">2H", *values)))


def test_dicom_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(DataError, match=r"(?s)^scan.dcm: .*DICOM.*apply_voi_lut.*dcm2img"):
        _ = Image.from_bytes(lambda: bytes(128) + b"DICM" + bytes(64), "scan.dcm").pixels


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"unknown format\); stabfw reads PNG, JPEG, WEBP"):
        read(noise(kind))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("height", [9_000, 40_000])
def test_decompression_bombs_are_refused(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow would only warn, where it refuses by itself, and where that is switched off."""
    content = png(1, 0, bytes(1250), 10_000, height)
    with pytest.raises(DataError, match="x: not a readable image"):
        read(content)
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(DataError, match=rf"10000 x {height} pixels, more than 89,478,485: make"):
        read(content)


def test_warnings_that_are_errors_are_refusals(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("error")
    with pytest.raises(DataError, match="decompression bomb"):
        read(png(1, 0, bytes(1250), 10_000, 9_000))


VALID = {
    "grey": encoded(PillowImage.fromarray(NOISE[..., 0]), "PNG"),
    "palette": encoded(PillowImage.fromarray(NOISE).quantize(16), "PNG"),
    "progressive": noise("JPEG", progressive=True),
    "lossless": noise("WEBP", lossless=True),
    **{kind: noise(kind) for kind in FORMATS},
}


@pytest.mark.parametrize("kind", VALID)
def test_truncated_pictures_are_never_taken_for_whole(kind: str) -> None:
    whole = read(VALID[kind])
    refused = 0
    for length in range(len(VALID[kind])):
        try:
            # Some last bytes only say that nothing follows.
            assert (read(VALID[kind][:length]) == whole).all(), f"{length} of {len(VALID[kind])}"
        except DataError:
            refused += 1
    assert refused > 0.9 * len(VALID[kind])


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
    st.binary(max_size=40),
)
def test_damaged_bytes_are_a_data_error_or_a_picture(
    kind: str, changes: list[tuple[int, int]], cut: int, inserted: bytes
) -> None:
    content = bytearray(VALID[kind])
    for place, value in changes:
        content[place % len(content)] = value
    cut %= len(content)
    for damaged in (bytes(content), bytes(content[:cut] + inserted + content[cut:]), inserted):
        try:
            pixels = read(damaged)
        except DataError as error:
            said = str(error)
        else:
            said = ""
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
        assert not said or said.startswith("x: not a readable image")
        assert " at 0x" not in said
