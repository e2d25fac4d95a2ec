"""`stabfw plugins --matrix`: what works on what, without loading anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from stabfw import cli


def matrix(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[tuple[str, str], str]:
    assert cli.invoke(["plugins", *arguments, "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    return {(p["accelerator"], p["model"]): p["fidelity"] or p["reason"] for p in pairs}


def test_every_accelerator_is_told_for_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    found = matrix(capsys, "--matrix")
    families = {"llava", "llava-next", "qwen2-vl", "qwen2.5-vl"}
    accelerators = {accelerator for accelerator, _ in found}
    assert found.keys() == {(a, family) for a in accelerators for family in families}
    assert {"fastv", "hqq", "lvpruning", "nf4", "random-drop", "visionzip"} <= accelerators
    assert [found["fastv", f] for f in sorted(families)] == ["faithful", *["adapted"] * 3]
    assert found["lofi", "llava"] == "unverified"
    assert found["replace", "llava"] == "replace has no default for: source"


def test_models_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    found = matrix(capsys, "--model", "tiny-llava", "--model", "llava=llava-hf/llava-1.5-13b-hf")
    assert {model for _, model in found} == {"tiny-llava", "llava=llava-hf/llava-1.5-13b-hf"}


def test_reasons_stand_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["plugins", "--matrix"]) == 0
    told = capsys.readouterr().out
    (number,) = re.findall(r"^\((\d+)\) replace has no default for: source$", told, re.MULTILINE)
    (row,) = re.findall(r"^│ replace .*$", told, re.MULTILINE)
    assert row.count(f"no ({number})") == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf-vlm", "say which one: --model hf-vlm=SOURCE"),
        ("lava", "unknown model 'lava'; did you mean 'llava'"),
        ("llava=/nowhere", "/nowhere"),
    ],
)
def test_models_that_are_not_there_are_one_error(
    model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(["plugins", "--model", model]) != 0
    assert message in capsys.readouterr().err


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from stabfw import cli; cli.invoke(['plugins', '--matrix', '--json']);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
