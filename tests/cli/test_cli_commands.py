from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from fake_plugins import Site, importable
from stabfw import cli
from stabfw.errors import Exit, RunError
from stabfw.registry import Registry
from stabfw.spec import load_spec


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    site = Site(tmp_path / "site")
    site.demo()
    with importable(site):
        yield site


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let `stabfw init` call a function instead."""

    def install(function: Any) -> None:
        module = importlib.import_module("stabfw.cli.init")
        monkeypatch.setattr(module, "command", click.command("init")(function))

    return install


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, text) in cli.COMMANDS.items():
        assert f"\n  {name} " in out
        assert text in out


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_each_command_exists_and_its_help_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert f"stabfw {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import stabfw

    assert cli.invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"stabfw {stabfw.__version__}\n"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["plugns"], "No such command 'plugns'. Did you mean 'plugins'?"),
        (["xyz"], "No such command 'xyz'."),
        (["plugins", "--nope"], "No such option"),
        (["--nope"], "No such option"),
    ],
)
def test_usage_errors(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(args) == Exit.USAGE
    assert expected in capsys.readouterr().err


def test_errors_are_short_unless_debugging(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        error = RunError("out of luck")
        error.exit_code = Exit.INCONCLUSIVE
        raise error

    command(fail)
    assert cli.invoke(["init"]) == Exit.INCONCLUSIVE
    assert capsys.readouterr() == ("", "Error: out of luck\n")
    assert cli.invoke(["--debug", "init"]) == Exit.INCONCLUSIVE
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("Error: out of luck\n")


def test_interruption(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.invoke(["init"]) == Exit.INTERRUPTED == 130
    assert "Interrupted." in capsys.readouterr().err


def test_a_bug_shows_its_traceback_and_has_a_code_of_its_own(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash() -> None:
        raise ZeroDivisionError("oops")

    command(crash)
    code = cli.invoke(["init"])
    assert code == cli.BUG
    assert code not in list(Exit)
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "Error: ZeroDivisionError: oops. This is a bug, please report it" in err


def test_a_command_returns_its_exit_code(command: Any) -> None:
    command(lambda: Exit.GATE_FAILED)
    assert cli.invoke(["init"]) == 1
    with pytest.raises(SystemExit) as caught:
        cli.main(["init"])
    assert caught.value.code == 1


def test_plugins(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["plugins"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["kind", "name", "distribution", "version", "status"]
    assert ["accelerator", "quant", "demo-plugins", "1.0", "installed"] in lines


def test_plugins_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {
        "kind": "metric",
        "name": "flips",
        "distribution": "demo-plugins",
        "version": "1.0",
        "status": "installed",
        "reason": "",
    } in rows


def test_plugins_tells_what_is_broken_when_asked(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.module("broken", "raise ValueError('boom')")
    site.distribution("broken-dist", {"stabfw.metrics": {"broken": "broken"}})
    assert cli.invoke(["plugins"]) == 0
    assert "boom" not in "".join(capsys.readouterr())
    assert cli.invoke(["plugins", "--check"]) == Exit.PLUGIN
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["metric", "broken", "broken-dist", "1.0", "broken"] in lines
    assert ["metric", "flips", "demo-plugins", "1.0", "ok"] in lines
    assert "metric plugin 'broken' (broken-dist 1.0, broken) cannot be imported" in err


def test_plugins_shows_conflicts_without_importing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.distribution("other", {"stabfw.metrics": {"flips": "other"}}, "2.0")
    assert cli.invoke(["plugins"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["metric", "flips", "demo-plugins", "1.0", "conflict"] in lines
    assert ["metric", "flips", "other", "2.0", "conflict"] in lines
    assert err.count("metric 'flips' is declared more than once") == 1


def test_plugin_by_name(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["plugins", "quant"]) == 0
    assert capsys.readouterr().out == (
        "accelerator plugin 'quant' (demo-plugins 1.0, demo_plugins)\n"
        "\n"
        "Rounds weights.\n"
        "\n"
        "More text.\n"
        "\n"
        "Parameters:\n"
        "  bits: integer ≥ 1 ≤ 8 (default 4)\n"
        "      Bits a weight.\n"
        '  mode: "fast" | "good" (default "good")\n'
        "      How to round.\n"
    )
    assert cli.invoke(["plugins", "flips"]) == 0
    assert "It has no parameters." in capsys.readouterr().out
    assert cli.invoke(["plugins", "swap", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    (parameter,) = [p for p in entry["parameters"] if p["name"] != "gold_holds"]
    assert parameter["type"] == "array of string"


def test_plugin_by_unknown_name(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["plugins", "qant"]) == Exit.USAGE
    assert "unknown plugin 'qant'; did you mean 'quant'?" in capsys.readouterr().err


def test_schema(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    assert cli.invoke(["schema"]) == 0
    assert "# yaml-language-server: $schema=.stabfw/spec.schema.json" in capsys.readouterr().out
    schema = json.loads(Path(".stabfw/spec.schema.json").read_text())
    assert "accelerator.quant" in schema["$defs"]
    assert cli.invoke(["schema", "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == schema
    Path("file").touch()
    assert cli.invoke(["schema", "-o", "file/schema.json"]) == Exit.USAGE
    assert "file/schema.json: cannot be written" in capsys.readouterr().err


def test_init_writes_a_spec_that_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(["init"]) == 0
    assert capsys.readouterr().out == "Wrote spec.yaml. Next: stabfw run spec.yaml\n"
    assert load_spec("spec.yaml", Registry()).name == "first-look"


def test_init_does_not_overwrite_unless_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("precious")
    assert cli.invoke(["init", "mine.yaml"]) == Exit.USAGE
    assert "mine.yaml exists already. Overwrite it with --force" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "precious"
    assert cli.invoke(["init", "mine.yaml", "--force"]) == 0
    assert "stabfw: 1" in Path("mine.yaml").read_text()
