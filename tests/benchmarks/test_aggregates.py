"""Scores of benchmarks on their way from stored answers to results, pages and the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image as PillowImage
from stabfw.cli import invoke
from stabfw.experiment import run
from stabfw.plan import Role, make_plan
from stabfw.registry import Registry
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec, parse_spec
from stabfw.store import Store
from stabfw.tracking.columns import cell_columns, comparison_columns


def mme(folder: Path) -> Path:
    """Six pictures of two categories, two questions each."""
    rows = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        PillowImage.fromarray(noise).save(stream, "PNG")
        category = "count" if number < 4 else "code_reasoning"
        rows += [
            {
                "question_id": f"{category}/{number}.png",
                "image": {"bytes": stream.getvalue(), "path": f"{number}.png"},
                "question": f"Is this {word}? Please answer yes or no.",
                "answer": answer,
                "category": category,
            }
            for word, answer in ((f"{number}", "Yes"), (f"{number + 1}", "No"))
        ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    (folder / "data").mkdir(parents=True)
    table.to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def experiment(tmp_path: Path, registry: Registry, **stacks: dict[str, str]) -> ExperimentSpec:
    plain = {
        "stabfw": 1,
        "name": "scores",
        "models": ["parrot"],
        "benchmarks": [{"type": "mme", "path": str(tmp_path / "MME")}],
        "stacks": {name: [{"type": "planted", "answers": given}] for name, given in stacks.items()},
        "controls": {"noise_floor": {"repeats": 1}},
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "tracking": {"uri": None},
    }
    return parse_spec(plain, registry)


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_planted_answers_give_the_scores_that_a_hand_counts(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mme(tmp_path / "MME")
    spec = experiment(tmp_path, registry)
    with Store(spec.store) as store:
        rows = make_plan(spec, registry, store).cells[0].dataset.rows
    assert [row.group for row in rows][::2] == [row.group for row in rows][1::2]
    gold = {row.id: row.references[0] for row in rows}
    # Of the first picture one answer is wrong, of the fifth both.
    other = {"yes": "no", "no": "yes"}
    wrong = [rows[0].id, rows[8].id, rows[9].id]
    planted = gold | {name: other[gold[name]] for name in wrong}
    done = run(experiment(tmp_path, registry, right=gold, planted=planted), registry=registry)
    assert done.results.failures == ()
    cells = {
        cell.condition.stack: cell
        for cell in done.results.cells
        if cell.condition.role is not Role.FLOOR
    }
    assert cells["right"].aggregates == {"perception": 200.0, "cognition": 200.0}
    # 7 of 8 and 3 of 4; 2 of 4 and 1 of 2.
    assert cells["planted"].aggregates == {"perception": 162.5, "cognition": 100.0}
    assert cell_columns(cells["planted"])["score.perception"] == 162.5

    by_stack = {c.condition.stack: c for c in done.results.comparisons}
    base = cells["baseline"]
    for name, comparison in by_stack.items():
        shown = done.results.aggregates(comparison)
        assert shown == {
            score: (base.aggregates[score], value)
            for score, value in cells[name].aggregates.items()
        }
        groups = comparison.metrics["group_accuracy_delta"]
        assert groups.n == 6
        assert "group_acc_d" in comparison_columns(comparison)
    before = by_stack["right"].metrics["group_accuracy_base"].value
    assert before is not None
    assert by_stack["right"].metrics["group_accuracy_delta"].value == pytest.approx(1 - before)
    assert by_stack["planted"].metrics["group_accuracy_delta"].value == pytest.approx(
        4 / 6 - before
    )
    assert by_stack["right"].floor["group_accuracy_delta"].value == 0.0

    assert load_results(done.directory / "results.json") == done.results
    page = (done.directory / "report.html").read_text()
    assert "Scores of the benchmarks" in page
    section = page[page.index("Scores of the benchmarks") :].partition("<h2>")[0]
    assert re.search(r">perception<.*?>162\.5<", section, re.DOTALL)
    assert invoke(["show", str(done.directory), "--stack", "planted"]) == 0
    assert re.search(r"perception .*162\.5", capsys.readouterr().out)
    assert invoke(["show", str(done.directory), "--json"]) == 0
    assert all(line.startswith("{") for line in capsys.readouterr().out.splitlines())
