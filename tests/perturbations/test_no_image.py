"""No trace of the picture is left."""

from __future__ import annotations

import numpy as np
from stabfw.components import AnswerKind, Image, Instance
from stabfw_perturbations.no_image import NoImage, NoImageConfig


def test_two_pictures_of_one_size_become_the_same() -> None:
    control = NoImage(NoImageConfig())
    digests = set()
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        item = Instance.create((Image.from_pixels(pixels),), "?", native_id=seed)
        grey = control.perturb(item, np.random.default_rng(0)).images[0]
        assert len(np.unique(grey.pixels)) == 1
        digests.add(grey.digest)
    assert len(digests) == 1


def test_the_gold_answer_stays_the_reference() -> None:
    assert all(NoImage(NoImageConfig()).preserves_label(kind) for kind in AnswerKind)
