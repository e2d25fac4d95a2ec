"""`stabfw fit` calibrates one stack, says where the artefact is, and does it once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from stabfw.errors import Exit

Stabfw = Callable[..., str]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one with a spec, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [[f"what is {i}?", "yes", f"c{i // 2}"] for i in range(40)]
    Path("questions.json").write_text(json.dumps(rows))
    Path("spec.yaml").write_text(
        """\
stabfw: 1
name: mine
models: [parrot]
stacks:
  fitted: [fitted]
  half: [half]
  picky: [picky]
benchmarks: [{type: questions, path: questions.json}]
calibration: {benchmark: {type: questions, path: questions.json}, split: train, limit: 5}
controls: {noise_floor: null}
tracking: {uri: null}
"""
    )


def test_a_stack_is_fitted_once_and_its_run_uses_that(stabfw: Stabfw) -> None:
    text = stabfw("fit", "spec.yaml", "--stack", "fitted")
    (artefact,) = Path(".stabfw/store/artefacts").iterdir()
    digest = hashlib.sha256(artefact.read_bytes()).hexdigest()
    assert "fitting fitted for parrot to 5 instances" in text
    assert "fitted for parrot: fitted" in text
    assert digest in text
    assert str(artefact) in text
    written = artefact.stat().st_mtime_ns

    again = stabfw("fit", "spec.yaml", "--stack", "fitted")
    assert "fitted for parrot: in the store already" in again
    assert digest in again
    text = stabfw("run", "spec.yaml", "--set", "stacks={fitted: [fitted]}")
    assert "fitting" not in text
    assert artefact.stat().st_mtime_ns == written
    told = json.loads(Path("runs/mine/results.json").read_text())
    assert digest in json.dumps(told)


def test_another_calibration_is_another_artefact(stabfw: Stabfw) -> None:
    for seed in "012":
        stabfw("fit", "spec.yaml", "--stack", "fitted", "--set", f"calibration.seed={seed}")
    assert len(list(Path(".stabfw/store/artefacts").iterdir())) == 3


def test_replicates_are_fitted_too(stabfw: Stabfw) -> None:
    text = stabfw("fit", "spec.yaml", "--stack", "fitted", "--set", "calibration.replicates=2")
    assert "fitted for parrot: fitted" in text
    assert "fitted for parrot (calibration seed 1): fitted" in text
    assert len(list(Path(".stabfw/store/artefacts").iterdir())) == 2


def test_run_says_what_it_fits(stabfw: Stabfw) -> None:
    text = stabfw("run", "spec.yaml", "--set", "stacks={fitted: [fitted]}")
    assert "fitting fitted for parrot to 5 instances" in text
    assert "fitted fitted for parrot in 0 s" in text


def test_what_cannot_be_fitted_is_said(stabfw: Stabfw) -> None:
    assert "nothing to fit" in stabfw("fit", "spec.yaml", "--stack", "half")
    text = stabfw("fit", "spec.yaml", "--stack", "fited", code=Exit.USAGE)
    assert "no stack 'fited' in this spec: fitted, half, picky" in text
    text = stabfw("fit", "spec.yaml", "--stack", "picky", code=Exit.PLUGIN)
    assert "works on llava only, this is" in text
    assert not Path(".stabfw/store/artefacts").exists()
