"""What the tests of all accelerators ask a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from stabfw.components import GenerationOptions, Prediction, Prompt

Ask = Callable[..., list[Prediction]]


@pytest.fixture(scope="session")
def ask(prompts: tuple[Prompt, ...]) -> Ask:
    """Answer the shared prompts in batches."""

    def answer(
        model: Any, size: int = 8, some: Sequence[Prompt] = prompts, **extra: Any
    ) -> list[Prediction]:
        options = GenerationOptions(max_new_tokens=8, extra=extra)
        return [
            prediction
            for start in range(0, len(some), size)
            for prediction in model.generate(model.encode(some[start : start + size]), options)
        ]

    return answer


@pytest.fixture(scope="session")
def baseline(tiny: Any, ask: Ask) -> list[Prediction]:
    """The answers of the untouched model."""
    return ask(tiny)
