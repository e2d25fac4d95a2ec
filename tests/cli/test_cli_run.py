"""`run`, `plan`, `show` and `compare` as a user types them, with a model that answers at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.errors import Exit

PLUGINS = Path(__file__).parents[1] / "plugins"
GOLD = ("yes", "no", "red", "blue")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spec in an empty directory, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [[f"what is {i}?", GOLD[i % 4], f"c{i // 2}"] for i in range(40)]
    Path("questions.json").write_text(json.dumps(rows))
    Path("spec.yaml").write_text(
        """\
stabfw: 1
name: mine
models: [{type: parrot, dtype: float32}]
stacks: {half: [half]}
benchmarks: [{type: questions, path: questions.json}]
controls: {noise_floor: null}
compare: deployed
tracking: {uri: null}
"""
    )
    return "spec.yaml"


def test_a_run_is_planned_computed_once_and_shown(spec: str, stabfw: Callable[..., str]) -> None:
    assert "2 cells, 0 in the store; to do: 80 instances with 2 model loads" in stabfw("plan", spec)
    first = stabfw("run", spec)
    assert "mine: 2 cells, 0 in the store, 80 instances to answer" in first
    assert "cells 2/2  instances 80/80" in first
    assert "mine: deployed comparison" in first
    assert "report   runs/mine/report.html" in first
    again = stabfw("run", spec)
    assert "mine: 2 cells, 2 in the store\n" in again
    assert first.partition("mine: 2 cells")[0] == again.partition("mine: 2 cells")[0]
    assert "to do: 0 instances with 0 model loads" in stabfw("plan", spec)
    explained = stabfw("plan", spec, "--explain", "--set", "generation.max_new_tokens=3")
    assert "generation.max_new_tokens: 3, stored 16" in explained


def test_changed_answers_are_listed(spec: str, stabfw: Callable[..., str]) -> None:
    stabfw("run", spec, "-q")
    changes = [json.loads(line) for line in stabfw("show", "runs/mine", "--json").splitlines()]
    assert len(changes) > 10
    assert {change["cell"].partition(" · ")[0] for change in changes} == {"half"}
    shown = stabfw("show", "runs/mine", "--stack", "half", "-n", "3")
    assert f"{len(changes)} changed, 3 shown" in " ".join(shown.split())
    lost = stabfw("show", "runs/mine", "--kind", "negative", "--json").splitlines()
    assert len(lost) == sum(change["kind"] == "negative" for change in changes)
    numbers = stabfw("show", "runs/mine", "--metrics")
    for name in ("divergence_ratio", "near_tie_flip_share", "accuracy_delta_p_holm"):
        assert name in numbers
    assert "what is" not in numbers
    wrong = stabfw("show", "runs/mine", "--stack", "hlaf", code=Exit.USAGE)
    assert "no such comparison; stacks: half" in wrong
    assert "no results here" in stabfw("show", "runs/other", code=Exit.USAGE)


def test_two_runs_are_compared_question_by_question(spec: str, stabfw: Callable[..., str]) -> None:
    stabfw("run", spec, "-q")
    same = json.loads(stabfw("compare", "runs/mine", "runs/mine", "--json"))
    assert {item["pairing"] for item in same.values()} == {"verified"}
    assert all(item["changed"] == [] for item in same.values())
    stacks = json.loads(stabfw("compare", "runs/mine:baseline", "runs/mine:half", "--json"))
    (item,) = stacks.values()
    shown = stabfw("show", "runs/mine", "--json").splitlines()
    assert item["changed"] == sorted(json.loads(line)["instance_id"] for line in shown)


def test_a_store_that_is_elsewhere_is_told(
    spec: str, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stabfw("run", spec, "-q")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    said = stabfw("compare", "../runs/mine", "../runs/mine", code=Exit.USAGE)
    assert "start stabfw in the directory where the experiment was run" in said
    assert list(Path().iterdir()) == []


def test_answers_made_elsewhere_are_compared(
    tmp_path: Path, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def write(name: str, *rows: dict[str, Any]) -> str:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def row(number: int, answer: str) -> dict[str, Any]:
        return {"id": number, "answer": answer, "gold": ["Yes", "yep"]}

    before = write("before.jsonl", row(1, "yes"), row(2, "Yep "), row(3, "no"))
    after = write("after.jsonl", row(3, "no"), row(2, "no"), row(1, "YES"))
    said = stabfw("compare", before, after)
    assert "answers (pairing unverified): 3 questions" in said
    assert "  2: 'yep' → 'no'" in said
    (found,) = json.loads(stabfw("compare", before, after, "--json")).values()
    assert found["changed"] == ["2"]
    assert found["metrics"]["negative_flip_rate"][0] == pytest.approx(1 / 3)
    strange = write("strange.jsonl", row(1, "[/INST] yes\u2028"), row(2, ""), {**row(3, "no")})
    assert "  1: 'yes' → '[/inst] yes'" in stabfw("compare", before, strange)
    empty = write("empty.jsonl", {**row(2, ""), "answer": None}, row(1, "x"), row(3, "no"))
    (found,) = json.loads(stabfw("compare", strange, empty, "--json")).values()
    assert found["changed"] == ["1"]
    told = write("told.jsonl", {**row(1, "yes"), "correct": None}, {**row(2, "a"), "correct": True})
    (found,) = json.loads(stabfw("compare", told, told, "--json")).values()
    assert found["metrics"]["accuracy_base"][0] == 1
    wrong = write("wrong.jsonl", {**row(1, "yes"), "correct": "false"})
    assert "must be true or false" in stabfw("compare", wrong, wrong, code=Exit.USAGE)
    short = write("short.jsonl", row(1, "yes"), row(2, "yes"))
    assert "questions without an answer on one side: 1" in stabfw("compare", before, short)
    assert "short.jsonl:2: lacks gold" in stabfw(
        "compare",
        before,
        write("short.jsonl", row(1, "yes"), {"id": 2, "answer": "x"}),
        code=Exit.USAGE,
    )
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"id": 1')
    assert "torn.jsonl:1: not valid JSON" in stabfw("compare", before, str(torn), code=Exit.USAGE)
    assert "neither a JSONL file nor a directory" in stabfw(
        "compare", before, "nothing", code=Exit.USAGE
    )


def test_an_interrupted_run_says_how_to_go_on(spec: str) -> None:
    slow = "models.0={type: parrot, dtype: float32, delay_ms: 400}"
    arguments = ["run", spec, "--set", slow, "--set", "batch_size=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from stabfw.cli import main; main()", *arguments],
        env={**os.environ, "PYTHONPATH": str(PLUGINS)},
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert "80 instances to answer" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert "Whole batches are kept; the same command goes on from there.\n" in said
    assert said.endswith("Interrupted.\n")


def test_a_damaged_store_is_told(spec: str, stabfw: Callable[..., str]) -> None:
    stabfw("run", spec, "-q")
    path = Path(".stabfw/store/outcomes.sqlite")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    said = stabfw("run", spec, code=Exit.USAGE)
    assert "store" in said
    assert "Traceback" not in said


def test_text_that_looks_like_markup_is_shown_as_it_is(
    spec: str, stabfw: Callable[..., str]
) -> None:
    name = "models.0={type: parrot, name: 'a[/red]b'}"
    assert "a[/red]b" in stabfw("plan", spec, "--set", name)
    assert "a[/red]b" in stabfw("run", spec, "--set", name)
    assert "a[/red]b" in stabfw("show", "runs/mine")


def test_what_could_not_be_answered_is_told_by_the_exit_code(
    spec: str, stabfw: Callable[..., str], tmp_path: Path
) -> None:
    unreadable = stabfw("run", spec, "--set", "benchmarks.0.broken=2", code=Exit.INCOMPLETE)
    assert "could not be asked and enter no rate: 2; the first:" in unreadable
    flag = tmp_path / "flag"
    flag.touch()
    failing = f"stacks.bad=[{{type: failing, flag: {flag}}}]"
    failed = stabfw("run", spec, "--set", failing, code=Exit.INCOMPLETE)
    assert "ValueError: planted failure" in failed
    assert "1 cells failed, so the results are partial" in failed
    flag.unlink()
    assert "mine: 3 cells, 2 in the store, 40 instances" in stabfw("run", spec, "--set", failing)
