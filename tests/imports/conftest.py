"""Commands as a user types them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stabfw import cli


@pytest.fixture
def stabfw(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, which must end with the exit code, and gives all that it printed."""

    def call(*arguments: str, code: int = 0) -> str:
        assert cli.invoke(arguments) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    return call
