"""Calibration data that holds a picture of what is evaluated is refused, copies included."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFilter
from stabfw.components import Benchmark, BenchmarkConfig, Image, Instance, Kind
from stabfw.errors import SpecError
from stabfw.plan.datasets import Dataset, open_dataset
from stabfw.plan.leaks import refuse_leak
from stabfw.registry import Registry
from stabfw.store import Store


class Album(Benchmark[BenchmarkConfig]):
    """Questions about given pictures."""

    config_cls = BenchmarkConfig
    splits = ("test",)
    pictures: Sequence[Pillow.Image] = ()

    def instances(self, split: str) -> Any:
        for number, picture in enumerate(self.pictures):
            pixels = np.asarray(picture.convert("RGB"))
            yield Instance.create((Image.from_pixels(pixels),), "what is it?", native_id=number)


def photograph(seed: int) -> Pillow.Image:
    """Soft shapes in many shades, of the size of a small photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (20, 27, 3), dtype=np.uint8)
    picture = Pillow.fromarray(noise).resize((320, 240), Pillow.Resampling.BICUBIC)
    return picture.filter(ImageFilter.GaussianBlur(4))


def saved_anew(picture: Pillow.Image) -> Pillow.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    return Pillow.open(file)


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., Dataset]:
    def made(name: str, *pictures: Pillow.Image) -> Dataset:
        benchmark = Album(BenchmarkConfig())
        benchmark.pictures = pictures
        with Store(tmp_path / "store") as store:
            return open_dataset(store, name, "album", benchmark)

    return made


@pytest.mark.parametrize(
    "copy",
    [
        saved_anew,
        lambda picture: picture.resize((160, 120)),
        lambda picture: picture.resize((500, 375)),
        lambda picture: picture.point(lambda value: round(0.8 * value + 20)),
        lambda picture: picture.crop((1, 1, 319, 239)),
    ],
    ids=["saved-anew", "smaller", "larger", "paler", "cut"],
)
def test_copy_of_an_evaluated_picture_is_refused(
    copy: Callable[[Pillow.Image], Pillow.Image], album: Callable[..., Dataset]
) -> None:
    evaluated = album("evaluated", *map(photograph, range(10)))
    data = album("data", *map(photograph, range(10, 15)), copy(photograph(7)))
    message = "1 of 6 instances have an image that looks like one of the evaluated .*'evaluated'"
    with pytest.raises(SpecError, match=message):
        refuse_leak(data.rows, [album("other", photograph(99)), evaluated])
    refuse_leak(data.rows[:5], [evaluated])


def test_same_picture_is_named_as_such(album: Callable[..., Dataset]) -> None:
    data = album("data", photograph(0), photograph(1))
    with pytest.raises(SpecError, match="2 of 2 instances share an image with"):
        refuse_leak(data.rows, [album("evaluated", photograph(1), photograph(0))])


def test_other_drawings_of_the_same_few_shapes_are_no_copies(tmp_path: Path) -> None:
    shapes: Any = Registry().load(Kind.BENCHMARK, "shapes")
    with Store(tmp_path / "store") as store:
        split = {
            name: open_dataset(
                store,
                name,
                "shapes",
                shapes(shapes.config_cls(split=name, limit=300, easiest=0, hardest=0.3)),
            )
            for name in ("train", "test")
        }
    refuse_leak(split["train"].rows, [split["test"]])


def test_blank_pictures_are_no_copies_of_each_other(album: Callable[..., Dataset]) -> None:
    data = album("data", *(Pillow.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(3)))
    refuse_leak(data.rows, [album("evaluated", Pillow.new("RGB", (64, 64), "white"))])
