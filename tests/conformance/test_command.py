"""`stabfw check` in the terminal."""

from __future__ import annotations

import json

import pytest
from broken_components import REGISTRY
from stabfw.cli import check, invoke
from stabfw.errors import Exit


@pytest.fixture(autouse=True)
def _plugins_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Registry", lambda: REGISTRY)


def test_a_plugin_that_keeps_to_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["check", "shout"]) == Exit.OK
    told = capsys.readouterr().out
    assert "perturbation plugin 'shout'" in told
    assert "✓ check_order_independent" in told
    assert "12 ok, 0 failed, 0 not applicable" in told


def test_a_plugin_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["check", "perturbation/futile"]) == Exit.PLUGIN
    told = capsys.readouterr().out
    assert "✗ check_changes_something: perturbation futile changes none" in told
    assert "– check_identity_at_zero: its config has none of severity" in told


def test_a_config_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["check", "shout", "--json", "--config", '{"rate": 0}']) == Exit.PLUGIN
    (report,) = json.loads(capsys.readouterr().out)
    failed = [item["name"] for item in report["checks"] if item["status"] == "failed"]
    assert (report["kind"], report["name"], failed) == (
        "perturbation",
        "shout",
        ["check_changes_something"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--all"),
        (["--all", "shout"], "--all"),
        (["shuot"], "did you mean 'shout'?"),
        (["flavour/shout"], "is not a kind"),
        (["model/shout"], "unknown model 'shout'"),
        (["shout", "--config", "{"], "not valid JSON"),
        (["shout", "--config", "[]"], "JSON object"),
        (["shout", "dim", "--config", '{"rate": 1}'], "for one plugin"),
    ],
)
def test_misuse(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["check", *arguments]) == Exit.USAGE
    assert message in capsys.readouterr().err
