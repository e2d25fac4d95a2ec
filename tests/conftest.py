"""One loaded tiny model, real questions, and commands as a user types them, for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from stabfw.components import Prompt

# Before anything imports huggingface_hub or tokenizers, which read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is no failure.
settings.register_profile("stabfw", deadline=None)
settings.load_profile("stabfw")


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


@pytest.fixture
def stabfw(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, which must end with the exit code, and gives all that it printed."""
    from stabfw import cli

    def call(*arguments: str, code: int = 0) -> str:
        found = cli.invoke(arguments)
        printed = capsys.readouterr()
        assert found == code, printed.out + printed.err
        return printed.out + printed.err

    return call
