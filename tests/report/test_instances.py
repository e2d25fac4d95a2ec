import numpy as np
import pytest
from drawn import draw
from PIL import Image
from stabfw.report.instances import (
    AnswerGiven,
    InstanceRow,
    changes,
    instances_parquet,
    read_instances,
)
from stabfw.report.layout import cell_directory, slug
from stabfw.report.results import Condition, Role
from stabfw.report.thumbnails import LONGEST, data_uri, thumbnail


def row(base: tuple[int, ...], variant: tuple[int, ...]) -> InstanceRow:
    sides = (AnswerGiven("a", "a", "ok", True, token_ids=t) for t in (base, variant))
    return InstanceRow("q", "c", {}, "What?", "a", *sides)


def test_table_reads_back_whole(tmp_path, drawn):
    rows = next(iter(drawn.rows.values()))
    instances_parquet(rows, tmp_path / "i.parquet")
    assert read_instances(tmp_path / "i.parquet") == rows


def test_table_without_rows_keeps_its_columns(tmp_path):
    import pyarrow.parquet

    instances_parquet([], tmp_path / "i.parquet")
    assert read_instances(tmp_path / "i.parquet") == []
    assert "variant_margin" in pyarrow.parquet.read_schema(tmp_path / "i.parquet").names


def test_changes_are_the_rows_that_changed(drawn):
    for comparison in drawn.results.comparisons:
        assert len(changes(drawn.rows[comparison.condition])) == comparison.counts.n_changed


@pytest.mark.parametrize(
    ("base", "variant", "first"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1,), (1, 3), 1), ((), (1,), None)],
)
def test_first_diverging_token(base, variant, first):
    assert row(base, variant).first_diverging_token == first


@pytest.mark.parametrize(
    ("base", "variant", "near"), [(0.125, 3.0, True), (0.126, 0.0, False), (None, 0.1, None)]
)
def test_near_ties_are_the_baselines(tmp_path, base, variant, near):
    import pyarrow.parquet

    sides = (AnswerGiven("a", "a", "ok", True, margin=m) for m in (base, variant))
    one = InstanceRow(
        "q", "c", {}, "What?", "a", *sides, foresight_part="fit", foresight_covered=False
    )
    assert one.near_tie is near
    instances_parquet([one], tmp_path / "i.parquet")
    assert read_instances(tmp_path / "i.parquet") == [one]
    (written,) = pyarrow.parquet.read_table(tmp_path / "i.parquet").to_pylist()
    assert [written[k] for k in ("near_tie", "foresight_part", "foresight_covered")] == [
        near,
        "fit",
        False,
    ]


def test_slugs_are_safe_and_distinct(tmp_path):
    def named(stack: str) -> Condition:
        return Condition("m", stack, "../b", "clean", 0, Role.STACK)

    names = [slug(named(s)) for s in ("a b", "a/b", "A B", "..", "x" * 200, "ü")]
    assert len(set(names)) == len(names)
    assert all(n.isascii() and "/" not in n and not n.startswith(".") for n in names)
    assert cell_directory(tmp_path, named("..")).parent == tmp_path / "cells"


def decoded(data: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(data))


def test_tiny_pictures_grow_by_whole_pixels():
    pixels = np.random.default_rng(0).integers(0, 4, (8, 4, 3), np.uint8) * 80
    grown = np.asarray(decoded(thumbnail(pixels)))
    assert grown.shape == (128, 64, 3)
    assert np.array_equal(grown[::16, ::16], pixels)


def test_large_pictures_shrink_and_keep_their_shape():
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    small = thumbnail(noise)
    assert decoded(small).size == (LONGEST, 120)
    assert len(small) < 20_000
    assert data_uri(small).startswith("data:image/jpeg;base64,")
    assert decoded(thumbnail(np.zeros((2, 1000, 3), np.uint8))).size == (LONGEST, 1)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_other_arrays_are_refused(shape):
    with pytest.raises(ValueError, match="RGB"):
        thumbnail(np.zeros(shape, np.uint8))


def test_without_pictures_pages_still_work():
    assert all(r.thumbnail == b"" for rows in draw(8, images=False).rows.values() for r in rows)
