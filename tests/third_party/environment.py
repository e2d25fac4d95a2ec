"""An environment that stabfw and other distributions are installed into."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "stabfw-example"


@dataclass(frozen=True)
class Environment:
    """A Python environment, and a directory to work in."""

    python: Path
    work: Path

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        """Run a program of the environment, which must end with this exit code.

        Returns:
            What it printed, or its errors where it was to fail.
        """
        done = subprocess.run(
            [self.python.parent / arguments[0], *map(str, arguments[1:])],
            cwd=self.work,
            env={**environment(), "COLUMNS": "200", "XDG_CACHE_HOME": str(self.work / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def pip(self, *arguments: str | Path) -> None:
        """Run pip for the environment, which has none of its own; nothing is downloaded."""
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        told = [*pip, "--python", str(self.python), *map(str, arguments)]
        checked(told, self.work)


def checked(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
