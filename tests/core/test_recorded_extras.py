"""What a metric has recorded is stored beside the answers, and never in the place of others'."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stabfw.components import Prediction
from stabfw.errors import PluginError, StoreError
from stabfw.experiment import Run, run
from stabfw.metrics import MetricValue, Outcomes, pair
from stabfw.plan import make_plan
from stabfw.registry import Registry
from stabfw.report.instances import read_instances
from stabfw.report.layout import INSTANCES, cell_directory
from stabfw.spec import ExperimentSpec
from stabfw.store import Store

Make = Callable[..., ExperimentSpec]
HALF: dict[str, Any] = {"models": [{"type": "parrot"}], "stacks": {"half": ["half"]}}
HALF |= {"compare": "deployed", "batch_size": 8}
SCORED = {**HALF, "controls": {"noise_floor": {"repeats": 1}, "baseline_likelihood": True}}
SCORED |= {"benchmarks": None}


def lengths(**config: Any) -> dict[str, Any]:
    return {"metrics": [{"type": "lengths", **config}]}


def keys(spec: ExperimentSpec, registry: Registry) -> dict[str, str]:
    with Store(spec.store) as store:
        return {c.label: key for c, key in make_plan(spec, registry, store).named.items()}


def answers(spec: ExperimentSpec, registry: Registry) -> dict[str, Mapping[str, Prediction]]:
    with Store(spec.store) as store:
        named = make_plan(spec, registry, store).named
        return {
            c.label: {i: p for i, (_, p) in store.predictions(key).items()}
            for c, key in named.items()
        }


def change(done: Run) -> MetricValue:
    (comparison,) = done.results.comparisons
    (name,) = (name for name in comparison.metrics if name.endswith(".change"))
    return comparison.metrics[name]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_both_sides_reach_the_metric_aligned(
    make_spec: Make, registry: Registry, executor: str
) -> None:
    execution = {"executor": executor, "workers": 2}
    spec = make_spec(**HALF, **lengths(unit=2), execution=execution)
    done = run(spec, registry=registry)
    found = change(done)
    told = answers(spec, registry)
    base, half = (next(t for n, t in told.items() if n.startswith(s)) for s in ("base", "half"))
    expected = np.mean([(len(half[i].text) - len(base[i].text)) / 2 for i in base])
    assert expected != 0
    assert found == MetricValue(
        "lengths unit=2.0.change",
        pytest.approx(expected),
        *[pytest.approx(expected + d) for d in (-1, 1)],
        100,
        "guessed",
    )
    second = done.results.comparisons[0].metrics["lengths unit=2.0.second"]
    assert second.value == sum(ord(p.text[1]) for p in base.values() if len(p.text) > 1)
    folder = cell_directory(done.directory, done.results.comparisons[0].condition)
    for row in read_instances(folder / INSTANCES):
        for given, known in ((row.base, base), (row.variant, half)):
            length = len(known[row.instance_id].text) / 2
            assert given.recorded["lengths unit=2.0.letters"] == (length,)
            assert len(given.recorded["lengths unit=2.0.first two"]) == 2


def test_recording_changes_no_answer(make_spec: Make, registry: Registry, tmp_path: Path) -> None:
    plain = make_spec(**HALF, store=str(tmp_path / "plain"))
    recorded = make_spec(**HALF, **lengths())
    for spec in (plain, recorded):
        run(spec, registry=registry)
    fields = ("text", "token_ids", "logprobs", "top")
    ours, theirs = (
        {n: {i: [getattr(p, f) for f in fields] for i, p in told.items()} for n, told in a.items()}
        for a in (answers(plain, registry), answers(recorded, registry))
    )
    assert ours == theirs
    assert any(ours.values())


def test_only_what_is_asked_for_enters_the_keys(
    make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = keys(make_spec(**HALF), registry)
    run(make_spec(**HALF), registry=registry)
    spec = make_spec(**HALF, **lengths())
    assert not set(keys(spec, registry).values()) & set(plain.values())
    assert run(spec, registry=registry).computed == len(plain)
    assert run(spec, registry=registry).computed == 0
    # What is done with the numbers is another thing than what is recorded.
    again = make_spec(**HALF, **lengths(longer_than=3))
    done = run(again, registry=registry)
    assert (done.computed, change(done).n < 100) == (0, True)
    other = make_spec(**HALF, **lengths(unit=3))
    assert not set(keys(other, registry).values()) & set(keys(spec, registry).values())
    assert keys(make_spec(**HALF), registry) == plain
    from stabfw_test_plugins.lengths import Lengths

    before = keys(spec, registry)
    monkeypatch.setattr(Lengths, "behaviour_version", 2)
    assert not set(keys(spec, registry).values()) & set(before.values())


def test_two_recorders_are_not_mixed_up(make_spec: Make, registry: Registry) -> None:
    metrics = [{"type": "lengths", **c} for c in ({}, {"unit": 4}, {"longer_than": 2})]
    spec = make_spec(**HALF, metrics=metrics)
    done = run(spec, registry=registry)
    (comparison,) = done.results.comparisons
    whole = comparison.metrics["lengths.change"].value
    quarter = comparison.metrics["lengths unit=4.0.change"].value
    assert whole is not None
    assert quarter == pytest.approx(whole / 4)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
    assert {len(cell.recorders) for cell in plan.cells} == {2}


def test_what_scores_the_baselines_answers_is_not_recorded(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    asked = [{"type": "questions", "path": str(questions), "choices": True}]
    spec = make_spec(**{**SCORED, "benchmarks": asked}, **lengths())
    run(spec, registry=registry)
    with Store(spec.store) as store:
        cells = make_plan(spec, registry, store).cells
        assert {bool(c.recorders) for c in cells if c.parent} == {False}
        for cell in cells:
            (recorder,) = cell.recorders or (None,)
            found = store.extras(cell.key, recorder.key) if recorder else {}
            assert len(found) == (0 if cell.parent else 100)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("missing", "lengths .* recorded no 'letters' of instance"),
        ("wide", "recorded 2 numbers for 'letters' .* it has to be 1"),
        ("infinite", "infinite ones"),
    ],
)
def test_nothing_is_stored_that_is_not_whole(
    make_spec: Make, registry: Registry, fault: str, why: str
) -> None:
    spec = make_spec(**HALF, **lengths(fault=fault))
    done = run(spec, registry=registry)
    assert not done.results.cells
    for failure in done.results.failures:
        assert re.search(why, failure.reason), failure.reason
    assert not any(answers(spec, registry).values())


def test_a_model_that_cannot_record_answers_as_ever(make_spec: Make, registry: Registry) -> None:
    plain = make_spec(**HALF)
    run(plain, registry=registry)
    spec = make_spec(**HALF, **lengths(unable=True))
    assert keys(spec, registry) == keys(plain, registry)
    done = run(spec, registry=registry)
    assert done.computed == 0
    found = change(done)
    assert (found.value, found.n) == (None, 0)
    (notice,) = (notice for notice in done.results.notices if notice.startswith("lengths"))
    assert "nothing is recorded of parrot" in notice
    assert "too shy" in notice


def test_numbers_that_got_lost_are_missed(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(**HALF, **lengths())
    done = run(spec, registry=registry)
    with sqlite3.connect(spec.store / "outcomes.sqlite") as database:
        database.execute("DELETE FROM extras WHERE instance = (SELECT min(instance) FROM extras)")
    (done.directory / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not of all instances: 1 are missing"):
        run(spec, registry=registry)


def test_a_cell_that_starts_anew_forgets_them(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(**HALF, **lengths())
    run(spec, registry=registry)
    with Store(spec.store) as store:
        cell = make_plan(spec, registry, store).cells[0]
        (recorder,) = cell.recorders
        assert store.extras(cell.key, recorder.key)
        store.restart(cell.key)
        assert not store.extras(cell.key, recorder.key)


def test_numbers_without_intervals_are_refused(make_spec: Make, registry: Registry) -> None:
    with pytest.raises(PluginError, match="'letters', not a MetricValue"):
        run(make_spec(**HALF, **lengths(fault="old")), registry=registry)


def test_tables_keep_extras_with_their_rows() -> None:
    ids = ["a", "b", "c"]
    table = Outcomes.from_columns(ids, answer=ids, correct=[True] * 3)
    one = replace(table, extras={"x": np.arange(3.0), "y": np.arange(6.0).reshape(3, 2)})
    mask = np.array([True, False, True])
    joined = pair(one, one.select(mask[::-1] & mask))
    assert joined.base.extras["x"].tolist() == [0, 1, 2]
    assert np.array_equal(
        joined.variant.extras["y"], [[0, 1], [np.nan] * 2, [4, 5]], equal_nan=True
    )
    assert joined.select(mask).base.extras["y"].tolist() == [[0, 1], [4, 5]]
    assert Outcomes.concat([one, one]).extras["x"].tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="different extras"):
        Outcomes.concat([one, table])
    with pytest.raises(ValueError, match="differ in length"):
        replace(table, extras={"x": np.zeros(2)})
