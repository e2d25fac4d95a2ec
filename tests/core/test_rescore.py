"""Stored answers are read and scored anew, and no model is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stabfw.cli import invoke
from stabfw.components import Answer, AnswerKind, AnswerStatus, FinishReason, Prediction, extract
from stabfw.errors import Exit, IncompleteError, RunError
from stabfw.execute.session import read_answer
from stabfw.experiment import rescore, run
from stabfw.plan import Role, make_plan
from stabfw.registry import Registry
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec, to_yaml
from stabfw.store import Store
from stabfw_test_plugins.parrot import Parrot
from stabfw_test_plugins.questions import Questions

Make = Callable[..., ExperimentSpec]


@pytest.fixture
def finished(make_spec: Make, registry: Registry) -> ExperimentSpec:
    """An experiment that was run; from now on the model cannot be loaded."""
    spec = make_spec(stacks={"planted": [{"type": "planted"}]}, perturbations=["suffix"])
    run(spec, registry=registry)
    return spec


@pytest.fixture(autouse=True)
def _no_model_after_the_run(monkeypatch: pytest.MonkeyPatch, finished: ExperimentSpec) -> None:
    def refuse(self: object, request: object) -> object:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(Parrot, "open", refuse)


def change_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on "red" is not understood."""
    before = Questions.extract

    def read(self: Questions, text: str, instance: Any) -> Answer:
        if text == "red":
            return Answer(None, instance.kind, AnswerStatus.INVALID)
        return before(self, text, instance)

    monkeypatch.setattr(Questions, "extract", read)
    monkeypatch.setattr(Questions, "scorer_version", 2)


def counted(spec: ExperimentSpec, registry: Registry) -> list[dict[str, int]]:
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        return [store.scorers(cell.key) for cell in plan.cells]


def test_changed_rules_change_what_is_read(
    finished: ExperimentSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = counted(finished, registry)[0]
    change_rules(monkeypatch)
    done = rescore(finished, registry=registry, examples=200)
    with Store(finished.store) as store:
        plan = make_plan(finished, registry, store)
        texts = {c.key: [p.text for _, p in store.predictions(c.key).values()] for c in plan.cells}
    assert len(done.cells) == len(texts)
    for cell in done.cells:
        red = texts[cell.key].count("red")
        assert red > 0
        assert cell.before == old != cell.after
        assert cell.read == len(cell.examples) == red
        assert {(e.text, e.before, e.after) for e in cell.examples} == {("red", "red", "(invalid)")}
        lost = sum(e.correct_before for e in cell.examples)
        assert cell.scored == lost
        assert cell.accuracy_before is not None
        assert cell.accuracy_after == pytest.approx(cell.accuracy_before - lost / 100)
        # Old scores stay beside the new ones.
        assert cell.kept == {old: 100, cell.after: 100}
    assert counted(finished, registry) == [dict(cell.kept) for cell in done.cells]
    assert done.run is not None
    accuracy = {c.key: c.accuracy.value for c in done.run.results.cells}
    assert all(
        accuracy[c.key] == pytest.approx(c.accuracy_after) for c in done.cells if c.key in accuracy
    )
    again = rescore(finished, registry=registry)
    assert all((c.before, c.read, c.scored) == (c.after, 0, 0) for c in again.cells)


def test_it_is_what_run_would_do(
    finished: ExperimentSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_rules(monkeypatch)
    done = rescore(finished, registry=registry)
    assert done.run is not None
    directory = done.run.directory
    names = ("results.json", "manifest.json", "report.html")
    ours = [(directory / name).read_bytes() for name in names]
    # The same by `run`, from the same store, into an empty directory.
    for name in names:
        (directory / name).unlink()
    assert run(finished, registry=registry).computed == 0
    assert [(directory / name).read_bytes() for name in names] == ours


def test_corrected_gold_label_changes_scores_only(
    finished: ExperimentSpec, registry: Registry, questions: Path
) -> None:
    with Store(finished.store) as store:
        plan = make_plan(finished, registry, store)
        (key,) = {
            k
            for c, k in plan.named.items()
            if c.role is Role.BASELINE and c.perturbation == "clean"
        }
        row = plan.cells[0].dataset.rows[3]
        said = store.scores(key, plan.cells[0].dataset.scorer)[row.id][0].value
    rows = json.loads(questions.read_text())
    assert rows[3][1] == row.references[0] != said
    rows[3][1] = said
    questions.write_text(json.dumps(rows))
    done = rescore(finished, registry=registry)
    (cell,) = [c for c in done.cells if c.key == key]
    assert (cell.read, cell.scored) == (0, 1)
    (example,) = cell.examples
    assert (example.instance_id, example.gold) == (row.id, said)
    assert (example.correct_before, example.correct_after) == (False, True)
    assert cell.accuracy_before is not None
    assert cell.accuracy_after == pytest.approx(cell.accuracy_before + 0.01)


def test_new_rules_of_the_core_make_new_scores(
    finished: ExperimentSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stabfw.plan.datasets.EXTRACTOR_VERSION", extract.EXTRACTOR_VERSION + 1)
    done = rescore(finished, registry=registry)
    assert all(c.before != c.after and c.read == 0 for c in done.cells)


def test_dry_run_keeps_nothing(
    finished: ExperimentSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = finished.runs / finished.name
    files = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    before = counted(finished, registry)
    change_rules(monkeypatch)
    dry = rescore(finished, registry=registry, keep=False)
    assert dry.run is None
    assert counted(finished, registry) == before
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == files
    real = rescore(finished, registry=registry)
    assert [replace(c, kept={}) for c in dry.cells] == [replace(c, kept={}) for c in real.cells]


def test_without_results_the_only_other_version_is_compared_with(
    finished: ExperimentSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.runs / finished.name / "manifest.json").unlink()
    change_rules(monkeypatch)
    assert all(c.read > 0 for c in rescore(finished, registry=registry).cells)
    (finished.runs / finished.name / "manifest.json").unlink()
    monkeypatch.setattr(Questions, "scorer_version", 3)
    done = rescore(finished, registry=registry)
    assert all((c.before, c.accuracy_before) == ("", None) for c in done.cells)
    assert all(len(c.kept) == 3 for c in done.cells)


def test_missing_cells_are_named(
    finished: ExperimentSpec, make_spec: Make, registry: Registry
) -> None:
    more = make_spec(stacks={"half": ["half"]}, perturbations=["suffix"], compare="deployed")
    with pytest.raises(IncompleteError, match=r"2 of \d+ cells .* half.*stabfw run"):
        rescore(more, registry=registry)
    with pytest.raises(RunError, match="there is no store here"):
        rescore(make_spec(store="nowhere"), registry=registry)
    assert not Path("nowhere").exists()


def test_command(
    finished: ExperimentSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    directory = finished.runs / finished.name
    change_rules(monkeypatch)
    assert invoke(["rescore", str(directory), "--dry-run", "--json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] is False
    assert sum(cell["read"] for cell in told["cells"]) > 0
    spec = tmp_path / "mine.yaml"
    spec.write_text(to_yaml(finished))
    assert invoke(["rescore", str(spec)]) == Exit.OK
    out = capsys.readouterr().out
    assert "read differently" in out
    assert "(invalid)" in out
    assert out.count("scores kept by version") == 2
    assert "(current)" in out
    assert invoke(["rescore", str(directory)]) == Exit.OK
    assert "nothing changes" in capsys.readouterr().out
    assert invoke(["rescore", str(tmp_path)]) == Exit.USAGE
    assert "no run is here" in capsys.readouterr().err


def test_what_was_cut_off_before_an_answer_is_truncated(
    finished: ExperimentSpec, registry: Registry
) -> None:
    with Store(finished.store) as store:
        dataset = make_plan(finished, registry, store).cells[0].dataset
    instance = next(iter(dataset.benchmark.instances("test")))
    for text, finish, status in (
        ("", FinishReason.STOP, AnswerStatus.EMPTY),
        ("", FinishReason.LENGTH, AnswerStatus.TRUNCATED),
        ("<think>hm", FinishReason.STOP, AnswerStatus.INVALID),
        ("<think>hm", FinishReason.LENGTH, AnswerStatus.TRUNCATED),
        ("red", FinishReason.LENGTH, AnswerStatus.OK),
        ("I cannot see the image", FinishReason.LENGTH, AnswerStatus.REFUSAL),
        ("red", FinishReason.ERROR, AnswerStatus.ERROR),
    ):
        answer, score = read_answer(dataset.benchmark, instance, Prediction(text, finish=finish))
        assert answer.status is status
        assert answer.kind is AnswerKind.SHORT
        assert not score.correct or status is AnswerStatus.OK


TINY = """
stabfw: 1
name: tiny
models: [tiny-llava]
stacks: {pool: [{type: pool}]}
benchmarks: [{type: shapes, limit: 12, kinds: [exist, color, describe]}]
perturbations: [{type: gaussian-noise, severity: 1}]
controls: {noise_floor: null}
"""
CHANGED = """
import sys
from stabfw.cli import invoke
from stabfw.components import Answer, AnswerStatus
from stabfw_benchmarks.shapes import Shapes
Shapes.scorer_version = 99
Shapes.extract = lambda self, text, instance: Answer(None, instance.kind, AnswerStatus.INVALID)
code = invoke(["rescore", "runs/tiny"])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def test_a_real_run_is_rescored_and_published_without_torch(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "spec.yaml").write_text(TINY)

    def python(*args: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    python(
        "-c", "import sys; from stabfw.cli import invoke; sys.exit(invoke(['run', 'spec.yaml']))"
    )

    def accuracies() -> list[float]:
        cells = load_results(tmp_path / "runs/tiny/results.json").cells
        return [cell.accuracy.value or 0.0 for cell in cells]

    def published() -> set[float]:
        client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        ids = [e.experiment_id for e in client.search_experiments()]
        found = [r.data.metrics for r in client.search_runs(ids)]
        return {m["acc"] for m in found if "acc" in m}

    (comparison, *_) = load_results(tmp_path / "runs/tiny/results.json").comparisons
    shared = comparison.metrics["common_prefix_share"]
    assert 0 < shared.n < 12
    assert shared.value is not None
    assert 0 <= shared.value <= 1
    assert max(accuracies()) > 0.3
    assert max(published()) > 0.3
    done = python("-c", CHANGED)
    assert accuracies() == [0.0] * len(accuracies())
    assert published() == {0.0}
    modules = set(done.stderr.splitlines()[-1].split())
    assert "mlflow" in modules
    assert not {"torch", "transformers"} & modules
    assert "read differently" in done.stdout
