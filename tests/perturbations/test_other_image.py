"""The picture is that of another question, the same one whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from stabfw.components import AnswerKind, Image, Instance
from stabfw.execute.inputs import Inputs
from stabfw.plan import Cell, make_plan
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw.store import Store
from stabfw_perturbations.other_image import OtherImage, OtherImageConfig

RNG = np.random.default_rng(0)


def instance(number: int, pictures: int) -> Instance:
    made = [np.full((4, 4, 3), 10 * number + i, np.uint8) for i in range(pictures)]
    return Instance.create(tuple(map(Image.from_pixels, made)), "?", native_id=number)


@pytest.mark.parametrize(("mine", "theirs"), [(1, 1), (3, 2), (1, 2), (0, 1)])
def test_the_number_of_pictures_stays(mine: int, theirs: int) -> None:
    item, other = instance(1, mine), instance(2, theirs)
    changed = OtherImage(OtherImageConfig()).perturb_with(item, other, RNG)
    assert [i.digest for i in changed.images] == [
        other.images[place % theirs].digest for place in range(mine)
    ]


def test_no_label_holds() -> None:
    assert not any(OtherImage(OtherImageConfig()).preserves_label(kind) for kind in AnswerKind)


def cells(directory: Path, order: Sequence[int], seed: int = 0) -> list[Cell]:
    """Plan questions on eight pictures, two on each, of which some cannot be read."""
    directory.mkdir(exist_ok=True)
    lines = []
    for number in order:
        picture = directory / f"{number // 2}.png"
        if number // 2 == 7:
            picture.write_bytes(b"no picture")
        else:
            pixels = np.full((40, 40, 3), 20 * (number // 2), np.uint8)
            PillowImage.fromarray(pixels).save(picture)
        lines.append(f'{{"image": "{picture.name}", "question": "q{number}?", "answer": "yes"}}')
    (directory / "questions.jsonl").write_text("\n".join(lines))
    registry = Registry()
    plain = {
        "stabfw": 1,
        "name": "other",
        "models": ["tiny-llava"],
        "benchmarks": [{"type": "custom", "path": str(directory / "questions.jsonl")}],
        "perturbations": ["other-image"],
        "seeds": [seed],
        "controls": {"noise_floor": None},
    }
    with Store(directory / "store") as store:
        plan = make_plan(parse_spec(plain, registry), registry, store)
    return [cell for cell in plan.cells if cell.perturbations]


def shown(cell: Cell, backwards: bool = False) -> dict[str, str]:
    inputs = Inputs()
    rows = cell.dataset.rows[::-1] if backwards else cell.dataset.rows
    asked = [inputs.perturbed(cell, row.id) for row in rows if row.pixels]
    return {item.question: item.images[0].digest for item in asked}


def test_another_readable_picture_is_shown_whatever_the_order(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path / "a", range(16))
    found = shown(cell)
    own = {row.question: row.images[0] for row in cell.dataset.rows}
    readable = {row.images[0] for row in cell.dataset.rows if row.pixels}
    assert len(found) == 14
    for question, digest in found.items():
        mine = next(image for text, image in own.items() if text.startswith(question))
        assert digest != mine
        assert digest in readable
    assert len(set(found.values())) > 3
    assert shown(cell, backwards=True) == found
    (reordered,) = cells(tmp_path / "b", range(15, -1, -1))
    assert shown(reordered) == found
    (other_seed,) = cells(tmp_path / "c", range(16), seed=1)
    assert shown(other_seed) != found


def test_a_single_picture_stays(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, range(2))
    (digest,) = {row.images[0] for row in cell.dataset.rows}
    assert set(shown(cell).values()) == {digest}
