import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec, parse_spec

GOLD = ("yes", "no", "red", "blue", "2", "3", "a", "b", "top left", "circle")


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of 100 questions, two a cluster."""
    path = tmp_path / "questions.json"
    rows = [[f"what is {i}?", GOLD[i % len(GOLD)], f"c{i // 2}"] for i in range(100)]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def make_spec(tmp_path: Path, questions: Path, registry: Registry) -> Callable[..., ExperimentSpec]:
    """Makes specs of the parrot on the questions; keyword arguments replace top-level keys."""

    def make(**changes: Any) -> ExperimentSpec:
        plain: dict[str, Any] = {
            "stabfw": 1,
            "name": "test",
            "models": ["parrot"],
            "benchmarks": [{"type": "questions", "path": str(questions)}],
            "controls": {"noise_floor": {"repeats": 2}},
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        }
        return parse_spec({**plain, **changes}, registry)

    return make
