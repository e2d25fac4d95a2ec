"""A wheel of stabfw as it is now, and a fresh environment with it and the example."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "stabfw-example"

#: The example's own tests need it installed: `test_installed.py` runs them where it is.
collect_ignore = [EXAMPLE.name]


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
            env={**_environment(), "COLUMNS": "200", "XDG_CACHE_HOME": str(self.work / "cache")},
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
        _checked(told, self.work)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of stabfw."""
    folder = tmp_path_factory.mktemp("wheel")
    _checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (found,) = folder.glob("stabfw-*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with stabfw and the example; other libraries are the outer one's."""
    folder = tmp_path_factory.mktemp("environment")
    _checked([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    environment = Environment(folder / "venv" / "bin" / "python", folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # Only the libraries: an editable stabfw is found through a .pth file, and those are not read
    # in a directory that was itself added by one.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ("install", "--no-index", "--no-deps", "--no-build-isolation")
    environment.pip(*offline, wheel)
    environment.pip(*offline, EXAMPLE)
    return environment


def _checked(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
