"""A distribution of somebody else's: installed, listed, checked, used, and gone again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from environment import EXAMPLE, Environment

SPEC = """\
stabfw: 1
name: third-party
models: [tiny-llava]
stacks:
  every-4th: [{type: uniform-drop, every: 4, layer: 1}]
benchmarks: [{type: shapes, limit: 16}]
controls: {noise_floor: null}
generation: {max_new_tokens: 4}
tracking: {uri: null}
"""


@pytest.fixture
def spec(installed: Environment) -> str:
    (installed.work / "spec.yaml").write_text(SPEC)
    return "spec.yaml"


def test_stabfw_is_that_of_the_environment(installed: Environment) -> None:
    code = "import stabfw, stabfw_example; print(stabfw.__file__, stabfw_example.__file__)"
    homes = installed.run("python", "-c", code).split()
    assert all(Path(home).is_relative_to(installed.work) for home in homes)


def test_it_is_listed_with_its_distribution(installed: Environment) -> None:
    rows = json.loads(installed.run("stabfw", "plugins", "--json"))
    (row,) = [row for row in rows if row["name"] == "uniform-drop"]
    assert row == {
        "kind": "accelerator",
        "name": "uniform-drop",
        "distribution": "stabfw-example",
        "version": "1.2.3",
        "status": "installed",
        "reason": "",
    }


def test_it_keeps_to_the_contracts(installed: Environment) -> None:
    (report,) = json.loads(installed.run("stabfw", "check", "uniform-drop", "--json"))
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert found.pop("check_identical_if_expected") == "not_applicable"
    assert found.pop("check_keep_all_identity") == "not_applicable"
    assert set(found.values()) == {"ok"}
    assert "check_attach_reversible" in found


def test_its_own_tests_pass(installed: Environment) -> None:
    told = installed.run(
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider"), f"--rootdir={EXAMPLE}", EXAMPLE
    )
    assert "passed" in told
    assert "failed" not in told


def test_a_spec_uses_it_and_results_show_it(installed: Environment, spec: str) -> None:
    told = installed.run("stabfw", "run", spec)
    assert "every-4th" in told
    assert "every-4th" in installed.run("stabfw", "show", "runs/third-party")
    results = (installed.work / "runs" / "third-party" / "results.json").read_text()
    assert "every-4th" in results
    assert "stabfw-example 1.2.3" in results


def test_uninstalled_it_is_gone(installed: Environment, spec: str) -> None:
    installed.pip("uninstall", "--yes", "stabfw-example")
    names = [row["name"] for row in json.loads(installed.run("stabfw", "plugins", "--json"))]
    assert "fastv" in names
    assert "uniform-drop" not in names
    told = " ".join(installed.run("stabfw", "plan", spec, code=2).split())
    assert "spec.yaml:5" in told
    assert "unknown accelerator 'uniform-drop'" in told
    assert "(installed: attention, " in told
    assert "install the distribution that provides it" in told
