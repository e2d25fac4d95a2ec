"""Tiny random checkpoints, written once for all tests that load them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's checkpoint, written when it is first asked for."""

    @functools.cache
    def written(family: str) -> Path:
        return checkpoints.make(family, tmp_path_factory.mktemp(family))

    return written
