"""Every check can fail, and fails for its own reason only."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from broken_components import CASES, REGISTRY, Case
from stabfw.components import Kind, Model
from stabfw.errors import PluginError
from stabfw.testing import Status, checks_for, parametrize_with_checks, run_checks
from stabfw.testing import every as every_kind
from stabfw_models.tiny import TinyConfig
from toys import HEALTHY, Halve, Round, Sighted, ToyModel, ToyModelConfig

#: These start an interpreter, so they are run on the plugins that they are about.
SLOW = {
    "check_describe_is_light",
    "check_fingerprint_is_json_and_stable",
    "check_light_import",
    "check_stable_ids",
    "check_supports_is_light",
}
MODEL = ToyModel(ToyModelConfig())
SIGHTED = Sighted(TinyConfig(device="cpu", threads=1))


def tried_on(kind: Kind, name: str) -> Model[Any]:
    """What drops tokens, or goes below them, needs more than the toy."""
    try:
        cls = REGISTRY.load(kind, name)
    except PluginError:
        return MODEL
    return SIGHTED if issubclass(cls, (Halve, Round)) else MODEL


def statuses(kind: Kind, name: str, **options: Any) -> dict[str, Status]:
    found = run_checks(kind, name, registry=REGISTRY, model=tried_on(kind, name), **options)
    return {result.name: result.status for result in found}


@functools.cache
def healthy(kind: Kind, name: str) -> dict[str, Status]:
    return statuses(kind, name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Leave out the slow checks but the one that a case is about."""
    case = request.getfixturevalue("case")
    from stabfw.testing import run

    def chosen(kind: Kind) -> list[Any]:
        return [c for c in checks_for(kind) if c.name not in SLOW or c.name == case.check]

    monkeypatch.setattr(run, "checks_for", chosen)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("quick")
def test_a_broken_plugin_fails_exactly_its_check(case: Case) -> None:
    model = tried_on(case.kind, case.name)
    found = run_checks(case.kind, case.name, registry=REGISTRY, model=model)
    failed = {result.name: result.message for result in found if result.status is Status.FAILED}
    assert failed.keys() == {case.check}, failed
    # A crash inside the kit would look like a failure too.
    assert "Error:" not in failed[case.check], failed


@pytest.mark.parametrize("kind", Kind)
def test_every_check_has_a_plugin_that_fails_it(kind: Kind) -> None:
    every = {function.__name__ for function in every_kind.CHECKS}
    covered = {case.check for case in CASES if case.kind is kind or case.check in every}
    assert {check.name for check in checks_for(kind)} == covered | every
    assert every <= {case.check for case in CASES}


@pytest.mark.parametrize(("kind", "name"), HEALTHY, ids=lambda value: str(value))
def test_healthy_plugins_fail_nothing(kind: Kind, name: str) -> None:
    assert set(healthy(kind, name).values()) <= {Status.OK, Status.NOT_APPLICABLE}


@pytest.mark.parametrize("kind", Kind)
def test_every_check_applies_to_some_healthy_plugin(kind: Kind) -> None:
    found = [healthy(k, name) for k, name in HEALTHY if k is kind]
    passed = {check for result in found for check, status in result.items() if status is Status.OK}
    assert passed == {check.name for check in checks_for(kind)}


def test_names_are_stable_and_documented() -> None:
    for kind in Kind:
        checks = checks_for(str(kind))
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert check.name.startswith("check_")
            assert check.demand.endswith(".")


def test_an_expected_failure_is_told_with_its_reason() -> None:
    reason = "weights are changed on purpose"
    found = run_checks(
        "accelerator",
        "idle",
        registry=REGISTRY,
        model=MODEL,
        expected_failures={"check_is_active": reason},
    )
    result = next(item for item in found if item.name == "check_is_active")
    assert (result.status, result.message) == (Status.EXPECTED, reason)
    assert [item for item in found if not item.status.good] == []


def test_an_expected_failure_that_passes_is_no_success() -> None:
    found = statuses(
        Kind.PERTURBATION, "shout", expected_failures={"check_changes_something": "why not"}
    )
    assert found["check_changes_something"] is Status.UNEXPECTED_PASS
    assert not found["check_changes_something"].good


@pytest.mark.parametrize("listed", [{"check_chnages_something": "?"}, {"nonsense": "?"}])
def test_an_expected_failure_must_exist(listed: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not among those checked"):
        run_checks("perturbation", "shout", registry=REGISTRY, expected_failures=listed)
    with pytest.raises(ValueError, match="not among those checked"):
        parametrize_with_checks(
            [("perturbation", "shout", None)], {"shout": listed}, registry=REGISTRY
        )


def test_without_a_model_accelerators_say_so() -> None:
    found = {r.name: r for r in run_checks("accelerator", "scale", registry=REGISTRY)}
    assert found["check_is_active"].status is Status.NOT_APPLICABLE
    assert "model" in found["check_is_active"].message


def test_a_config_that_does_not_fit_fails_one_check() -> None:
    found = statuses(Kind.PERTURBATION, "shout", config={"rate": 7})
    assert found["check_config_round_trip"] is Status.FAILED
    assert found["check_changes_something"] is Status.NOT_APPLICABLE


def test_ids_are_readable() -> None:
    def ids(*plugins: Any) -> set[str]:
        mark = parametrize_with_checks(list(plugins), registry=REGISTRY, model=MODEL)
        return {str(case.id) for case in mark.args[1]}

    assert "scale-check_is_active" in ids(("accelerator", "scale", None))
    several = ids(
        ("accelerator", "scale", {"keep_ratio": 0.5}), ("accelerator", "scale", {"keep_ratio": 0.2})
    )
    assert "scale(keep_ratio=0.2)-check_is_active" in several


PYTEST_FILE = """
from broken_components import REGISTRY
from stabfw.testing import parametrize_with_checks

@parametrize_with_checks(
    [("perturbation", "futile", None), ("perturbation", "restive", None)],
    expected_failures={
        "futile": {"check_changes_something": "it is meant to do nothing"},
        "restive": {"check_order_independent": "wrong"},
    },
    registry=REGISTRY,
)
def test_conformance(check):
    check()
"""


def test_tests_fail_skip_and_expect_as_the_checks_say(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PYTEST_FILE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"),
            *("-k", "changes or zero or order"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {tuple(line.split()[:2]) for line in done.stdout.splitlines() if "test_it.py" in line}
    test = "test_it.py::test_conformance[{}]".format
    assert found >= {
        ("PASSED", test("futile-check_order_independent")),
        ("XFAIL", test("futile-check_changes_something")),
        ("PASSED", test("restive-check_changes_something")),
        ("FAILED", test("restive-check_identity_at_zero")),
        ("FAILED", test("restive-check_order_independent")),
    }, done.stdout
    assert "1 skipped" in done.stdout
    assert "its config has none of severity" in done.stdout
