"""Everything that belongs into the wheel is in it."""

from __future__ import annotations

import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from environment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
DECLARED = {
    **PROJECT["project"]["entry-points"],
    "console_scripts": PROJECT["project"]["scripts"],
}


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "stabfw/py.typed",
        "stabfw/store/schema.sql",
        "stabfw/report/report.html.j2",
        "stabfw/report/style.css",
        "stabfw/testing/__init__.py",
        "stabfw_models/tiny/weights/tiny-llava/model.safetensors",
        "stabfw_models/tiny/weights/tiny-llava/tokenizer.json",
        "stabfw_models/py.typed",
        "stabfw_accelerators/fastv/method.py",
        "stabfw_accelerators/py.typed",
        "stabfw_benchmarks/shapes/scenes.py",
        "stabfw_benchmarks/py.typed",
        "stabfw_perturbations/typos/slips.py",
        "stabfw_perturbations/py.typed",
        "stabfw_metrics/representation/method.py",
        "stabfw_metrics/py.typed",
    ],
)
def test_it_holds(names: set[str], name: str) -> None:
    assert name in names


def test_it_holds_every_file_of_the_packages_and_nothing_else(names: set[str]) -> None:
    """A line of .gitignore such as `models/` would silently leave a whole package out."""
    files = {
        str(path.relative_to((ROOT / package).parent))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == files


def test_entry_points_are_those_of_pyproject(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        text = archive.read(name).decode()
    found = ConfigParser(delimiters=["="])
    # Names are case-sensitive.
    found.optionxform = str
    found.read_string(text)
    assert {section: dict(found[section]) for section in found.sections()} == DECLARED


def test_installed_entry_points_are_those_of_pyproject() -> None:
    """They are frozen when stabfw is installed, also in place."""
    found: dict[str, dict[str, str]] = {}
    for entry_point in distribution("stabfw").entry_points:
        found.setdefault(entry_point.group, {})[entry_point.name] = entry_point.value
    assert found == DECLARED, "install stabfw again: pip install -e ."
