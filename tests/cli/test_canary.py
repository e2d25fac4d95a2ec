"""Questions that flip easily, exported as a regression test: which, how, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stabfw import Registry, load_spec
from stabfw.components import Kind
from stabfw.errors import DataError, Exit
from stabfw.metrics import Outcomes, pair
from stabfw.plan import Condition, Role
from stabfw.report.canary import Wanted, choose
from stabfw.spec import components

GOLD = ("yes", "no", "red", "blue")
FULL = ("--set", "tracking.images=full")


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stabfw: Callable[..., str]) -> str:
    """The directory of a finished run with many flips, below the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [[f"what is {i}?", GOLD[i % 4], f"c{i // 2}"] for i in range(60)]
    Path("questions.json").write_text(json.dumps(rows))
    plain: dict[str, Any] = {
        "stabfw": 1,
        "name": "mine",
        "models": [{"type": "parrot", "dtype": "float32"}],
        "stacks": {"half": ["half"], "calm": [{"type": "planted"}]},
        "benchmarks": [{"type": "questions", "path": "questions.json"}],
        "perturbations": ["suffix"],
        "controls": {"noise_floor": None},
        "compare": "deployed",
        "tracking": {"uri": None},
    }
    Path("spec.yaml").write_text(json.dumps(plain))
    stabfw("run", "spec.yaml", "-q")
    return "runs/mine"


def exported(directory: str = "canary") -> list[dict[str, Any]]:
    lines = Path(directory, "questions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def table(answers: str, margins: list[float]) -> Outcomes:
    n = len(answers)
    ids = [f"q{i}" for i in range(n)]
    right = [answer == "A" for answer in answers]
    return Outcomes.from_columns(ids, answer=list(answers), correct=right, margin=margins)


def test_questions_are_chosen_by_what_happened_to_them() -> None:
    margins = [3.0, 0.2, 0.1, 4.0, 5.0, 6.0, 0.3, 7.0, 0.4, np.nan]
    base = table("AAABAAAAAA", margins)
    one = Condition("m", "one", "b", "clean", 0, Role.STACK)
    two = Condition("m", "two", "b", "clean", 0, Role.STACK)
    pairs = {
        one: pair(base, table("BAABAAAAAA", margins)),
        two: pair(base, table("BBACAAAAAA", margins)),
    }
    found = choose(pairs, Wanted(flipped=9, near_ties=2, controls=2))
    groups = {name: group for name, (group, _) in found.items()}
    # Lost twice, lost once, changed from wrong to wrong; then the smallest margins.
    assert list(groups)[:5] == ["q0", "q1", "q3", "q2", "q6"]
    assert [groups[name] for name in list(groups)[:5]] == ["flipped"] * 3 + ["near-tie"] * 2
    sure = [name for name, group in groups.items() if group == "control"]
    assert len(sure) == 2
    assert set(sure) <= {"q4", "q5", "q7", "q9"}
    assert found["q0"][1].answers[one.label] == ("A", "B")
    assert list(choose(pairs, Wanted(2, 0, 0))) == ["q0", "q1"]
    # What one stack did not answer is not part of the set.
    short = pair(base, table("BAABAAAAAA", margins).select(np.arange(10) > 0))
    assert "q0" not in choose({**pairs, one: short}, Wanted())


def test_what_is_exported_is_asked_the_same_way(ran: str, stabfw: Callable[..., str]) -> None:
    counts = ("--flipped", "8", "--near-ties", "4", "--controls", "3")
    said = stabfw("canary", ran, "-o", "canary", *counts, *FULL)
    assert "canary: 8 flipped, 4 near-tie, 3 control" in said
    rows = exported()
    assert [row["canary"] for row in rows] == ["flipped"] * 8 + ["near-tie"] * 4 + ["control"] * 3
    registry = Registry()
    asked = []
    for path, where in (("spec.yaml", "."), ("canary/spec.yaml", "canary")):
        (config,) = load_spec(path, registry).benchmarks
        config = config.model_copy(update={"path": Path(where, config.path)})
        benchmark: Any = components(registry, Kind.BENCHMARK, config)
        instances = list(benchmark.instances("test"))
        asked.append(
            {(benchmark.render(i), i.images[0].pixels.tobytes(), i.references) for i in instances}
        )
    original, copied = asked
    assert len(copied) == 15
    assert copied < original
    changed = {json.loads(line)["instance_id"] for line in _changes(stabfw, ran)}
    for row in rows:
        assert (row["id"] in changed) == (row["canary"] == "flipped")


def _changes(stabfw: Callable[..., str], ran: str) -> list[str]:
    return stabfw("show", ran, "--perturbation", "clean", "--json").splitlines()


def test_a_calm_stack_flips_nothing(ran: str, stabfw: Callable[..., str]) -> None:
    stabfw("canary", ran, "-o", "canary", "--stack", "calm", *FULL)
    assert {row["canary"] for row in exported()} == {"near-tie", "control"}
    said = stabfw("canary", ran, "-o", "canary", "--stack", "clam", *FULL, code=Exit.USAGE)
    assert "there is no stack 'clam'" in said


def test_pictures_leave_only_if_they_may(
    ran: str, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabfw_test_plugins.questions import Questions

    for images in ("none", "thumbnails"):
        given = f"tracking.images={images}"
        said = stabfw("canary", ran, "-o", "canary", "--set", given, code=Exit.USAGE)
        assert "keeps pictures in place" in said
    monkeypatch.setattr(Questions, "private", True)
    said = stabfw("canary", ran, "-o", "canary", *FULL, code=Exit.USAGE)
    assert "are private, so they are not exported" in said
    assert not Path("canary").exists()


def test_nothing_else_is_overwritten(ran: str, stabfw: Callable[..., str]) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    said = stabfw("canary", ran, "-o", "mine", *FULL, code=Exit.USAGE)
    assert "there is something else in it" in said
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]
    stabfw("canary", ran, "-o", "canary", *FULL)
    Path("canary/thesis.txt").touch()
    stabfw("canary", ran, "-o", "canary", "--flipped", "1", "--near-ties", "0", *FULL)
    assert Path("canary/thesis.txt").exists()
    assert len(list(Path("canary/images").iterdir())) == len(exported())


@pytest.mark.parametrize("what", ["questions.jsonl", "picture", "canary.json"])
def test_a_set_that_was_changed_is_refused(
    ran: str, stabfw: Callable[..., str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stabfw("canary", ran, "-o", "canary", *FULL)
    monkeypatch.chdir("canary")
    assert "a regression test, never an estimate" in stabfw("run", "spec.yaml", "-q")
    file = next(Path("images").iterdir()) if what == "picture" else Path(what)
    if what == "canary.json":
        file.write_text("{}")
        message = "not readable"
    elif what == "picture":
        file.write_bytes(file.read_bytes() + b" ")
        message = "differs from what canary.json pins"
    else:
        file.write_text(file.read_text().replace("what is", "what was", 1))
        message = "differs from what canary.json pins"
    assert message in stabfw("plan", "spec.yaml", code=Exit.USAGE)


def test_what_custom_cannot_ask_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stabfw.report import canary as sets

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="which is not what was asked"):
        sets.verify(
            sets.Table(
                "q.jsonl",
                {
                    "path": "q.jsonl",
                    "columns": {"question": "q", "image": "i", "answer": "a"},
                    "kind": "short",
                    "suffix": "",
                },
                {"q0": "never asked"},
            ),
            _written("set"),
            Registry().load(Kind.BENCHMARK, "custom"),
        )


def _written(name: str) -> Path:
    from PIL import Image

    directory = Path(name)
    directory.mkdir()
    Image.new("RGB", (8, 8)).save(directory / "1.png")
    (directory / "q.jsonl").write_text('{"q": "what?", "i": "1.png", "a": "red"}\n')
    return directory
