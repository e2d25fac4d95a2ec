"""The whole pipeline with a model that answers at once."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.errors import IncompleteError, PluginError, RunError, SpecError
from stabfw.experiment import Run, run
from stabfw.metrics import Outcomes, pair
from stabfw.plan import Condition, Role, make_plan
from stabfw.registry import Observers, Registry, events, hookimpl
from stabfw.report.results import Comparison
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec, load_spec
from stabfw.store import Store

Make = Callable[..., ExperimentSpec]


def ids(spec: ExperimentSpec, registry: Registry) -> list[str]:
    with Store(spec.store) as store:
        return [row.id for row in make_plan(spec, registry, store).cells[0].dataset.rows]


def only(done: Run, stack: str, perturbation: str = "clean") -> Comparison:
    found = [
        c
        for c in done.results.comparisons
        if c.condition.stack == stack and c.condition.perturbation == perturbation
    ]
    assert len(found) == 1
    return found[0]


def changed(done: Run, stack: str, registry: Registry) -> set[str]:
    comparison = only(done, stack)
    from stabfw.report.layout import CHANGES, cell_directory

    text = (cell_directory(done.directory, comparison.condition) / CHANGES).read_text()
    return {json.loads(line)["instance_id"] for line in text.splitlines()}


@pytest.mark.parametrize(
    ("executor", "batch_size"), [("inline", 8), ("inline", 1), ("inline", 33), ("process", 7)]
)
def test_exactly_the_planted_flips_are_found(
    make_spec: Make, registry: Registry, executor: str, batch_size: int
) -> None:
    all_ids = ids(make_spec(), registry)
    planted = set(random.Random(5).sample(all_ids, 23))
    spec = make_spec(
        stacks={"planted": [{"type": "planted", "answers": dict.fromkeys(planted, "green")}]},
        batch_size=batch_size,
        execution={"executor": executor, "workers": 2},
    )
    done = run(spec, registry=registry)
    assert changed(done, "planted", registry) == planted
    assert only(done, "planted").metrics["divergence_ratio"].value == 23 / 100


def test_order_of_the_data_changes_no_number(
    make_spec: Make, registry: Registry, questions: Path, tmp_path: Path
) -> None:
    def metrics(name: str) -> dict[str, Any]:
        spec = make_spec(
            models=[{"type": "parrot", "dtype": "float32"}],
            stacks={"half": ["half"]},
            compare="deployed",
            store=str(tmp_path / name),
        )
        return dict(only(run(spec, registry=registry), "half").metrics)

    before = metrics("one")
    assert before["divergence_ratio"].value > 0.5
    # Native ids are positions, so the file has to keep them; the batches are what changes.
    spec = make_spec(stacks={"half": ["half"]}, compare="deployed", batch_size=3)
    assert dict(only(run(spec, registry=registry), "half").metrics) == before


def test_pairing_by_position_would_invent_flips(make_spec: Make, registry: Registry) -> None:
    from stabfw.experiment import outcomes_of

    done = run(make_spec(), registry=registry)
    tables = outcomes_of(done.directory, registry)
    table = next(t for c, t in tables.items() if c.role is Role.BASELINE)
    order = list(range(len(table)))
    random.Random(0).shuffle(order)
    shuffled = Outcomes.from_columns(
        table.instance_id[order],
        answer=table.answer[order],
        correct=table.correct[order],
        cluster=table.cluster[order],
    )
    assert not pair(table, shuffled).changed.any()
    assert (table.answer != shuffled.answer).mean() > 0.5


def test_baseline_far_from_what_is_reported_is_flagged(make_spec: Make, registry: Registry) -> None:
    item = {"model": "parrot", "benchmark": "questions", "source": "table 1"}
    plain = run(make_spec(), registry=registry).results
    accuracy = plain.cells[0].accuracy.value
    assert accuracy is not None
    near = {**item, "accuracy": accuracy, "tolerance": 0.0}
    assert run(make_spec(published=[near]), registry=registry).results.notices == plain.notices
    far = {**item, "accuracy": 0.0 if accuracy > 0.5 else 1.0}
    (notice,) = set(run(make_spec(published=[far]), registry=registry).results.notices) - set(
        plain.notices
    )
    assert "(table 1)" in notice
    assert "find out why before reading" in notice


def test_matched_baseline_shares_the_stacks_circumstances(
    make_spec: Make, registry: Registry
) -> None:
    stacks = {"half": ["half"], "none": [{"type": "planted"}]}
    matched = run(make_spec(stacks=stacks, name="matched"), registry=registry)
    deployed = run(make_spec(stacks=stacks, name="deployed", compare="deployed"), registry=registry)
    assert only(matched, "half").metrics["divergence_ratio"].value == 0
    assert only(deployed, "half").metrics["divergence_ratio"].value > 0.5
    assert only(matched, "none").base_key == only(deployed, "none").base_key
    circumstances = {c.condition.circumstance for c in matched.results.cells}
    assert circumstances == {"", "bfloat16"}


def test_noise_floor_sees_what_batches_do(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(
        models=[{"type": "parrot", "batch_sensitive": 0.3}],
        stacks={"none": [{"type": "planted"}]},
    )
    comparison = only(run(spec, registry=registry), "none")
    floor = comparison.floor["divergence_ratio"].value
    assert floor is not None
    assert 0.1 < floor < 0.4
    assert comparison.metrics["divergence_ratio"].value == 0


def test_finished_run_computes_nothing_again(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(stacks={"none": [{"type": "planted"}]}, perturbations=["suffix"])
    first = run(spec, registry=registry)
    again = run(spec, registry=registry)
    assert (first.computed, again.computed) == (8, 0)
    assert again.results == first.results


def test_baseline_is_shared_between_experiments(make_spec: Make, registry: Registry) -> None:
    run(make_spec(), registry=registry)
    later = run(make_spec(name="later", stacks={"none": [{"type": "planted"}]}), registry=registry)
    assert later.computed == 1


def test_corrected_gold_label_makes_new_scores_only(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    before = run(make_spec(), registry=registry)
    rows = json.loads(questions.read_text())
    for row in rows:
        row[1] = "green"
    questions.write_text(json.dumps(rows))
    after = run(make_spec(), registry=registry)
    assert after.computed == 0
    assert [c.key for c in after.results.cells] == [c.key for c in before.results.cells]
    assert before.results.cells[0].accuracy.value != 0
    assert after.results.cells[0].accuracy.value == 0


def test_unreadable_image_is_an_error_on_both_sides_not_a_wrong_answer(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    spec = make_spec(
        benchmarks=[{"type": "questions", "path": str(questions), "broken": 3}],
        stacks={"none": [{"type": "planted"}]},
    )
    done = run(spec, registry=registry)
    comparison = only(done, "none")
    assert comparison.metrics["coverage"].value == 0.97
    assert comparison.metrics["divergence_ratio"].n == 97
    assert comparison.counts.n_error_base == comparison.counts.n_error_variant == 3
    assert {cell.unanswered for cell in done.results.cells} == {3}
    accuracy = done.results.cells[0].accuracy
    assert (accuracy.value, accuracy.n) == (comparison.metrics["accuracy_base"].value, 97)
    (note,) = [n for n in done.results.notices if "could not be asked" in n]
    assert re.search(r"broken-\d.png: not a readable image \(unknown format\); stabfw reads", note)


def test_damaged_results_are_made_anew(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(stacks={"none": [{"type": "planted"}]})
    first = run(spec, registry=registry)
    (first.directory / "results.json").write_text("torn")
    again = run(spec, registry=registry)
    assert again.computed == 0
    assert load_results(first.directory / "results.json") == again.results == first.results


def test_failed_stack_costs_its_own_cells_only_and_is_tried_again(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    flag = tmp_path / "fail"
    flag.touch()
    spec = make_spec(
        stacks={"bad": [{"type": "failing", "flag": str(flag)}], "good": [{"type": "planted"}]}
    )
    first = run(spec, registry=registry)
    assert [(f.condition.stack, f.status) for f in first.results.failures] == [("bad", "failed")]
    assert "ValueError: planted failure" in first.results.failures[0].reason
    assert only(first, "good")
    flag.unlink()
    second = run(spec, registry=registry)
    assert second.computed == 1
    assert not second.results.failures
    assert only(second, "bad").metrics["divergence_ratio"].value == 0


def test_worker_that_dies_is_started_again_with_what_is_left(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    flag = tmp_path / "die"
    flag.touch()
    spec = make_spec(
        stacks={"dying": [{"type": "failing", "flag": str(flag), "exit": True}]},
        execution={"executor": "process", "workers": 1},
    )
    done = run(spec, registry=registry)
    assert not done.results.failures
    assert only(done, "dying").metrics["coverage"].value == 1


def test_accelerator_that_did_nothing_fails(make_spec: Make, registry: Registry) -> None:
    done = run(make_spec(stacks={"idle": ["idle"]}), registry=registry)
    assert "idle (stabfw-test-plugins 1.0) did nothing" in done.results.failures[0].reason


def test_accelerator_that_raises_while_planning_is_named(
    make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supports(self: object, info: object, request: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr("stabfw_test_plugins.accelerators.Planted.supports", supports)
    message = r"planted \(stabfw-test-plugins 1.0\) fails in supports\(\): ValueError: planted"
    with pytest.raises(PluginError, match=message):
        run(make_spec(stacks={"none": [{"type": "planted"}]}), registry=registry)


def test_report_that_is_not_json_costs_the_stack_only(
    make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stabfw_test_plugins.accelerators.Planted.report",
        lambda self, model: {"engaged": True, "ratio": float("nan")},
    )
    stacks = {"none": [{"type": "planted"}], "half": ["half"]}
    done = run(make_spec(stacks=stacks), registry=registry)
    assert ["none" in f.condition.stack for f in done.results.failures] == [True]
    assert "planted (stabfw-test-plugins 1.0) reports what is not JSON" in (
        done.results.failures[0].reason
    )


def test_unsupported_pair_is_recorded(make_spec: Make, registry: Registry) -> None:
    done = run(make_spec(stacks={"picky": ["picky"]}), registry=registry)
    failure = done.results.failures[0]
    assert failure.status == "unsupported"
    assert "works on llava only, this is parrot" in failure.reason


def test_two_members_on_one_slot_are_refused(make_spec: Make, registry: Registry) -> None:
    with pytest.raises(SpecError, match="picky and fitted both change the weights"):
        run(make_spec(stacks={"both": ["picky", "fitted"]}), registry=registry)


def test_unwritable_run_directory_is_found_before_anything_runs(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    spec = make_spec(runs=str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot write results there"):
        run(spec, registry=registry)
    assert not spec.store.exists()


class Told:
    """Remembers what is told of fits."""

    def __init__(self) -> None:
        self.progress: list[events.FitProgress] = []
        self.ends: list[events.FitEnd] = []

    @hookimpl
    def stabfw_fit_progress(self, event: events.FitProgress) -> None:
        self.progress.append(event)

    @hookimpl
    def stabfw_fit_end(self, event: events.FitEnd) -> None:
        self.ends.append(event)


class TestCalibration:
    def spec(self, make_spec: Make, questions: Path, **changes: Any) -> ExperimentSpec:
        calibration = {
            "benchmark": {"type": "questions", "path": str(questions)},
            "split": "train",
            "limit": 10,
        }
        return make_spec(
            **{"stacks": {"fitted": ["fitted"]}, "calibration": calibration, **changes}
        )

    def test_fits_once_and_reuses(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        spec = self.spec(make_spec, questions)
        assert run(spec, registry=registry).computed == 4
        assert run(spec, registry=registry).computed == 0

    def test_interrupted_fit_goes_on(
        self, make_spec: Make, registry: Registry, questions: Path, tmp_path: Path
    ) -> None:
        cut = tmp_path / "cut"
        cut.touch()
        stacks = {"fitted": [{"type": "fitted", "cut": str(cut)}]}
        spec = self.spec(make_spec, questions, stacks=stacks)
        with pytest.raises(PluginError, match=r"fitted \(stabfw-test-plugins 1.0\) fails in fit"):
            run(spec, registry=registry)
        cut.unlink()
        told = Told()
        observers = Observers(registry)
        observers.add(told, "told")
        run(spec, registry=registry, observers=observers)
        assert [event.done for event in told.progress] == [2, 3]
        (end,) = told.ends
        assert end.curve == {2: {"loss": 0.5}, 3: {"loss": 1 / 3}}
        kept = spec.store / "artefacts" / end.digest
        _, texts, begin = json.loads(kept.read_bytes())
        assert begin == 1
        assert len(texts) == 10
        assert all(answer for _, answer in texts)
        assert list(kept.parent.iterdir()) == [kept]

    def test_only_what_it_depends_on_makes_it_fit_again(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        def fits(**config: Any) -> int:
            told = Told()
            observers = Observers(registry)
            observers.add(told, "told")
            stacks = {"fitted": [{"type": "fitted", **config}]}
            spec = self.spec(make_spec, questions, stacks=stacks)
            run(spec, registry=registry, observers=observers)
            return len(told.ends)

        assert [fits(), fits(used=1), fits(note="other"), fits(used=1)] == [1, 0, 1, 0]

    def test_other_choices_of_the_data_are_stacks_of_their_own(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        calibration = {
            "benchmark": {"type": "questions", "path": str(questions)},
            "split": "train",
            "limit": 10,
            "seed": 4,
            "replicates": 3,
        }
        told = Told()
        observers = Observers(registry)
        observers.add(told, "told")
        stacks = {"fitted": ["fitted"], "planted": ["planted"]}
        spec = self.spec(make_spec, questions, stacks=stacks, calibration=calibration)
        done = run(spec, registry=registry, observers=observers)
        assert {c.condition.stack for c in done.results.comparisons} == {
            "fitted",
            "fitted (calibration seed 5)",
            "fitted (calibration seed 6)",
            "planted",
        }
        assert len({event.digest for event in told.ends}) == 3
        assert len({only(done, f"fitted{s}").key for s in ("", " (calibration seed 5)")}) == 2

    def test_artefact_at_hand_needs_no_data(
        self, make_spec: Make, registry: Registry, questions: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "artefact"
        stacks = {"fitted": [{"type": "fitted", "file": str(file)}]}
        spec = self.spec(make_spec, questions, stacks=stacks, calibration=None)
        keys = []
        for note in ("one", "other"):
            file.write_text(json.dumps([note, [], 0]))
            done = run(spec, registry=registry)
            assert changed(done, "fitted", registry)
            keys.append(only(done, "fitted").key)
        assert keys[0] != keys[1]

    def test_artefact_is_part_of_the_key(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        spec = self.spec(make_spec, questions)
        before = only(run(spec, registry=registry), "fitted").key
        with Store(spec.store) as store:
            other = store.put_artefact("another recipe", b'["other", [1], 0]')
            store._db.execute("UPDATE artefacts SET digest=?", (other,))
        assert only(run(spec, registry=registry), "fitted").key != before

    def test_refuses_data_that_is_evaluated(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        leak = {"benchmark": {"type": "questions", "path": str(questions)}, "split": "test"}
        with pytest.raises(SpecError, match="64 of 64 instances share an image"):
            run(self.spec(make_spec, questions, calibration=leak), registry=registry)

    def test_asks_for_calibration_data(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        with pytest.raises(SpecError, match="has to be fitted to data"):
            run(self.spec(make_spec, questions, calibration=None), registry=registry)


def test_incomplete_error_has_its_exit_code() -> None:
    assert IncompleteError("x").exit_code == 4


def test_results_of_another_spec_are_never_given(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    """A run that failed in part replaces the results, so the earlier ones must be made anew."""
    flag = tmp_path / "fail"
    flag.touch()
    plain = make_spec(stacks={"good": [{"type": "planted"}]})
    first = run(plain, registry=registry)
    bad = {"good": [{"type": "planted"}], "bad": [{"type": "failing", "flag": str(flag)}]}
    assert run(make_spec(stacks=bad), registry=registry).results.failures
    again = run(plain, registry=registry)
    assert (again.results, again.computed) == (first.results, 0)
    assert load_spec(again.directory / "spec.yaml", registry) == plain


def test_a_run_that_cannot_start_leaves_the_results_as_they_are(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    spec = make_spec(stacks={"none": [{"type": "planted"}]})
    done = run(spec, registry=registry)
    broken = make_spec(benchmarks=[{"type": "questions", "path": str(questions), "split": "no"}])
    with pytest.raises(SpecError, match="no split 'no'"):
        run(broken, registry=registry)
    assert load_spec(done.directory / "spec.yaml", registry) == spec


def test_pages_that_are_gone_are_made_again(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(stacks={"none": [{"type": "planted"}]})
    first = run(spec, registry=registry)
    shutil.rmtree(first.directory / "cells")
    again = run(spec, registry=registry)
    assert (again.results, again.computed) == (first.results, 0)
    assert list((first.directory / "cells").iterdir())


def test_what_could_not_be_asked_is_asked_when_it_can_be(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    """The same bytes come back, so the key stays as it is."""
    spec = make_spec(stacks={"none": [{"type": "planted"}]})
    whole = run(spec, registry=registry)
    with Store(spec.store) as store:
        (key,) = [c.key for c in whole.results.cells if c.condition.stack == "none"]
        store._db.execute(
            "UPDATE predictions SET finish='error', error='away', input_hash='' "
            "WHERE key=? AND batch=1",
            (key,),
        )
    again = run(spec, registry=registry)
    assert again.computed == 1
    assert again.results.comparisons == whole.results.comparisons
    assert {cell.unanswered for cell in again.results.cells} == {0}


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_accelerator_that_leaves_traces_fails_each_time(
    make_spec: Make, registry: Registry, executor: str
) -> None:
    spec = make_spec(
        models=["tiny-llava"],
        benchmarks=[{"type": "shapes", "limit": 8}],
        stacks={"leaky": ["leaky"], "good": [{"type": "attention"}]},
        generation={"max_new_tokens": 2},
        execution={"executor": executor, "workers": 1},
    )
    for _ in range(2):
        done = run(spec, registry=registry)
        (failure,) = done.results.failures
        assert failure.condition.stack == "leaky"
        assert "leaky (stabfw-test-plugins 1.0) did not restore the model" in failure.reason
        assert only(done, "good")


def test_models_that_are_the_same_share_a_noise_floor(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(
        models=[{"type": "parrot", "name": name} for name in ("one", "two")],
        stacks={"none": [{"type": "planted"}]},
    )
    for comparison in run(spec, registry=registry).results.comparisons:
        assert comparison.floor["divergence_ratio"].n == 200


def test_one_batch_has_no_noise_floor(make_spec: Make, registry: Registry) -> None:
    def notices(size: int) -> list[str]:
        done = run(make_spec(batch_size=size), registry=registry)
        return [notice for notice in done.results.notices if "fit into one batch" in notice]

    assert (len(notices(100)), notices(99)) == (1, [])


def test_labels_tell_cells_apart(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(stacks={"none": [{"type": "planted"}]}, perturbations=["suffix"], seeds=[0, 1])
    with Store(spec.store) as store:
        labels = [c.label for c in make_plan(spec, registry, store).named]
    assert len(labels) == len(set(labels)) == 12
    assert isinstance(next(iter(labels)), str)
    assert Condition("m", "s", "b", "p", 0, Role.STACK).label == "s · p · b · m"
