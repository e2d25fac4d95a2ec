"""What every built-in perturbation keeps to."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from stabfw.components import Choice, Image, Instance, Modality, Perturbation
from stabfw_perturbations.geometry import Crop, Occlusion, Rotation
from stabfw_perturbations.imagenet_c import CORRUPTIONS
from stabfw_perturbations.no_image import NoImage, NoImageConfig
from stabfw_perturbations.severity import SeverityConfig
from stabfw_perturbations.typos import Typos, TyposConfig
from stabfw_perturbations.wording import (
    Case,
    CaseConfig,
    Paraphrase,
    ParaphraseConfig,
    Punctuation,
    PunctuationConfig,
    Whitespace,
    WhitespaceConfig,
)

PERTURBATIONS: list[Perturbation[Any]] = [
    *(cls(SeverityConfig()) for cls in (*CORRUPTIONS.values(), Crop, Occlusion, Rotation)),
    NoImage(NoImageConfig()),
    Typos(TyposConfig(rate=0.9)),
    Case(CaseConfig()),
    Punctuation(PunctuationConfig()),
    Whitespace(WhitespaceConfig(rate=0.9)),
    Paraphrase(ParaphraseConfig()),
]
IDENTITIES: list[Perturbation[Any]] = [
    *(
        cls(SeverityConfig(severity=0))
        for cls in (*CORRUPTIONS.values(), Crop, Occlusion, Rotation)
    ),
    Typos(TyposConfig(rate=0)),
    Case(CaseConfig(rate=0)),
    Punctuation(PunctuationConfig(rate=0)),
    Whitespace(WhitespaceConfig(rate=0)),
]


def instance(number: int = 0) -> Instance:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    return Instance.create(
        (Image.from_pixels(pixels), Image.from_pixels(pixels[::-1])),
        f"How many of the 12 triangles in picture {number} are bigger than the circle?",
        native_id=number,
        choices=(Choice("a", "fifteen"), Choice("b", "sixteen")),
        hint="Count every triangle once.",
        references=("a",),
    )


def content(item: Instance) -> tuple[object, ...]:
    return item.question, [image.pixels.tolist() for image in item.images]


def name(perturbation: Perturbation[Any]) -> str:
    return type(perturbation).__name__


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=name)
class TestEvery:
    def test_changes_its_own_modality_only(self, perturbation: Perturbation[Any]) -> None:
        before = instance()
        after = perturbation.perturb(before, np.random.default_rng(0))
        same_text = after.question == before.question
        same_images = [i.digest for i in after.images] == [i.digest for i in before.images]
        assert same_text == (perturbation.modality is Modality.IMAGE)
        assert same_images == (perturbation.modality is Modality.TEXT)

    def test_keeps_identity_options_and_references(self, perturbation: Perturbation[Any]) -> None:
        before = instance()
        after = perturbation.perturb(before, np.random.default_rng(0))
        for field in ("id", "choices", "hint", "references", "cluster_id", "kind"):
            assert getattr(after, field) == getattr(before, field)

    def test_leaves_the_original_alone(self, perturbation: Perturbation[Any]) -> None:
        item = instance()
        before = content(item)
        perturbation.perturb(item, np.random.default_rng(0))
        assert content(item) == before

    def test_depends_on_the_generator_alone(self, perturbation: Perturbation[Any]) -> None:
        def run(order: list[int]) -> dict[int, tuple[object, ...]]:
            return {
                i: content(perturbation.perturb(instance(i), np.random.default_rng(i)))
                for i in order
            }

        assert run([0, 1, 2]) == run([2, 0, 1])

    def test_image_size_stays(self, perturbation: Perturbation[Any]) -> None:
        after = perturbation.perturb(instance(), np.random.default_rng(0))
        assert [image.pixels.shape for image in after.images] == [(20, 30, 3)] * 2
        assert all(image.pixels.dtype == np.uint8 for image in after.images)


@pytest.mark.parametrize("perturbation", IDENTITIES, ids=name)
def test_strength_zero_changes_nothing(perturbation: Perturbation[Any]) -> None:
    after = perturbation.perturb(instance(), np.random.default_rng(0))
    assert content(after) == content(instance())


def test_plugins_import_nothing_heavy() -> None:
    code = (
        "import sys, stabfw_perturbations.typos, stabfw_perturbations.no_image,"
        " stabfw_perturbations.geometry, stabfw_perturbations.imagenet_c,"
        " stabfw_perturbations.wording, stabfw_perturbations.options;"
        "sys.exit(' '.join({'torch', 'transformers', 'datasets', 'mlflow', 'numpy', 'scipy'}"
        " & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
