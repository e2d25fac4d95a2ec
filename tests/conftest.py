"""One loaded tiny model and real questions, shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stabfw.components import Prompt

# Before anything imports huggingface_hub or tokenizers, which read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny() -> Iterator[Any]:
    """The embedded model in float32 on one CPU thread. Leave it as you found it."""
    from stabfw_models.tiny import TinyConfig, TinyLlava

    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def prompts() -> tuple[Prompt, ...]:
    """24 questions of different lengths on generated scenes."""
    from stabfw.components import Image, Prompt
    from stabfw_benchmarks.shapes import scenes

    found = []
    for index in range(6):
        scene = scenes.generate("validation", index)
        image = Image.from_pixels(scene.pixels)
        for number, question in enumerate(scenes.questions(scene, 4)):
            text = question.text + scenes.render_choices(question.choices)
            found.append(Prompt(f"{index}-{number}", (image,), text))
    assert len({len(prompt.text) for prompt in found}) > 8
    return tuple(found)
