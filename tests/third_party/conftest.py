"""A wheel of stabfw as it is now, and a fresh environment with it and the example."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from environment import EXAMPLE, ROOT, Environment, checked

#: The example's own tests need it installed: `test_installed.py` runs them where it is.
collect_ignore = [EXAMPLE.name]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of stabfw."""
    folder = tmp_path_factory.mktemp("wheel")
    checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (found,) = folder.glob("stabfw-*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with stabfw and the example; other libraries are the outer one's."""
    folder = tmp_path_factory.mktemp("environment")
    checked([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    environment = Environment(folder / "venv" / "bin" / "python", folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # Only the libraries: an editable stabfw is found through a .pth file, and those are not read
    # in a directory that was itself added by one.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ("install", "--no-index", "--no-deps", "--no-build-isolation")
    environment.pip(*offline, wheel)
    environment.pip(*offline, EXAMPLE)
    return environment
