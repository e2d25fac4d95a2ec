import dataclasses
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from subprocess import run

import pytest
from stabfw.errors import RunError
from stabfw.registry.events import FitEnd, RunEnd
from stabfw.report.layout import PUBLISHED, slug
from stabfw.report.results import Change, Summary
from stabfw.report.wording import interval, percent
from stabfw.spec.models import Tracking
from stabfw.tracking import stabfw_run_end
from stabfw.tracking.columns import cell_columns, comparison_columns
from stabfw.tracking.curves import publish_curves
from stabfw.tracking.links import Published, links
from stabfw.tracking.publish import publish
from stabfw.tracking.reach import database
from stabfw.tracking.table import flips_table, outcome


@pytest.fixture
def client(published):
    from mlflow import MlflowClient

    return MlflowClient(published.uri)


def every_run(client, published):
    return client.search_runs([published.experiment_id], max_results=1000)


def test_every_cell_is_a_run_below_the_experiment(drawn, published, client):
    runs = every_run(client, published)
    assert len(runs) == len(drawn.results.cells) + 1 == published.created
    assert {r.info.status for r in runs} == {"FINISHED"}
    for cell in drawn.results.cells:
        found = client.get_run(published.runs[slug(cell.condition)])
        assert found.data.tags["mlflow.parentRunId"] == published.parent
        assert found.data.tags["stabfw.cell_key"] == cell.key
        assert found.data.tags["stabfw.role"] == cell.condition.role
        assert found.data.tags["stabfw.estimand"] == "matched"
        assert found.data.params["stack"] == cell.condition.stack
        assert found.info.run_name == cell.condition.label
        dataset = found.inputs.dataset_inputs[0].dataset
        assert dataset.name == "shapes, clean"


def test_numbers_arrive_rounded_and_whole(drawn, published, client):
    for comparison in drawn.results.comparisons:
        metrics = client.get_run(published.runs[slug(comparison.condition)]).data.metrics
        given = comparison.metrics
        assert metrics["div"] == pytest.approx(given["divergence_ratio"].value, abs=5e-5)
        assert metrics["loss_hi"] == pytest.approx(given["correct_loss_rate"].high, abs=5e-5)
        assert metrics["acc_d_lo"] == pytest.approx(given["accuracy_delta"].low, abs=5e-5)
        assert metrics["excess"] == pytest.approx(given["excess_divergence"].value, abs=5e-5)
        assert metrics["floor"] == pytest.approx(
            comparison.floor["divergence_ratio"].value, abs=5e-5
        )
        assert metrics["n_ci"] == comparison.counts.n_ci
        assert metrics["n"] == comparison.counts.n
        assert all(len(name) <= 14 for name in ("div_lo", "loss_hi", "acc_d_lo"))


def test_pages_and_tables_are_there(drawn, published, client, run_directory, tmp_path):
    top = {a.path for a in client.list_artifacts(published.parent)}
    assert top == {"report.html", "forest.html", "forest.svg", "spec.yaml", "results.json"}
    name = slug(drawn.results.comparisons[0].condition)
    run_id = published.runs[name]
    assert {a.path for a in client.list_artifacts(run_id)} == {
        "flips.html",
        "flips.json",
        "instances.parquet",
    }
    page = client.download_artifacts(run_id, "flips.html", str(tmp_path))
    assert Path(page).read_bytes() == (run_directory / "cells" / name / "flips.html").read_bytes()
    table = json.loads(Path(client.download_artifacts(run_id, "flips.json")).read_text())
    assert table["columns"][:2] == ["instance", "outcome"]
    assert len(table["data"]) == drawn.results.comparisons[0].counts.n_changed


def test_notes_begin_with_the_verdict(drawn, published, client):
    note = client.get_run(published.worst).data.tags["mlflow.note.content"]
    assert "of the answers changed [" in note.splitlines()[0]
    assert drawn.results.notices[0] in note


def test_baseline_is_named_and_worst_is_worst(drawn, published, client):
    worst = max(drawn.results.comparisons, key=lambda c: c.metrics["correct_loss_rate"].value)
    assert published.worst == published.runs[slug(worst.condition)]
    assert client.get_run(published.worst).data.tags["stabfw.base_run"] == published.worst_base


def test_publishing_again_changes_nothing(drawn, run_directory, published, client):
    before = {r.info.run_id: r.data.to_dictionary() for r in every_run(client, published)}
    again = publish(drawn.results, run_directory, published.uri, traces=0)
    assert (again.created, again.updated) == (0, 0)
    after = {r.info.run_id: r.data.to_dictionary() for r in every_run(client, published)}
    for data in (*before.values(), *after.values()):
        data["tags"].pop("stabfw.published", None)
    assert after == before
    assert again.runs == published.runs


def test_a_changed_number_updates_its_run(drawn, run_directory, published, client):
    cells = drawn.results.cells
    better = dataclasses.replace(cells[0].accuracy, value=0.9999)
    changed = dataclasses.replace(
        drawn.results, cells=(dataclasses.replace(cells[0], accuracy=better), *cells[1:])
    )
    again = publish(changed, run_directory, published.uri, traces=0)
    assert (again.created, again.updated) == (0, 1)
    assert client.get_run(again.runs[slug(cells[0].condition)]).data.metrics["acc"] == 0.9999


def test_means_and_corruption_errors_are_numbers_of_the_experiment(
    drawn, run_directory, published, client
):
    at = dataclasses.replace(drawn.results.comparisons[0].condition, benchmark="mean of all")
    known = drawn.results.comparisons[0].metrics["divergence_ratio"]
    null = dataclasses.replace(known, name="mce", value=None, low=None, high=None)
    summary = Summary(
        at,
        ("shapes", "pope"),
        {"divergence_ratio": known, "mce": null},
        floor={known.name: dataclasses.replace(known, value=0.01, high=0.02)},
        self_floor={known.name: dataclasses.replace(known, value=0.03, high=0.04)},
    )
    results = dataclasses.replace(drawn.results, summaries=(summary,))
    again = publish(results, run_directory, published.uri, traces=0)
    assert again.created == 0
    metrics = client.get_run(again.parent).data.metrics
    found = {name: value for name, value in metrics.items() if "mean of all" in name}
    place = f"{at.stack}/{at.perturbation}/mean of all/{at.model}"
    assert found.pop(f"{place}/div") == pytest.approx(known.value, abs=5e-5)
    assert found == {
        f"{place}/floor": 0.01,
        f"{place}/floor_hi": 0.02,
        f"{place}/self_floor": 0.03,
        f"{place}/self_floor_hi": 0.04,
    }


def test_the_note_tells_the_floors_of_stacks_where_there_are_some(
    drawn, run_directory, published, client
):
    def table(comparisons):
        results = dataclasses.replace(drawn.results, comparisons=comparisons)
        parent = publish(results, run_directory, published.uri, traces=0).parent
        note = client.get_run(parent).data.tags["mlflow.note.content"]
        lines = [line for line in note.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    first, *rest = drawn.results.comparisons
    rate = dataclasses.replace(first.floor["divergence_ratio"], value=0.123)
    own = dataclasses.replace(first, self_floor={rate.name: rate})
    heads, _, row, other, *_ = table((own, *rest))
    assert heads[-3:] == ["noise floor", "self floor", "right answers lost"]
    assert row[-3:-1] == [percent(first.floor["divergence_ratio"].value), percent(0.123)]
    assert other[-2] == ""
    assert row[-1] == (
        f"{percent(first.metrics['correct_loss_rate'].value)} "
        f"{interval(first.metrics['correct_loss_rate'])}"
    )
    assert "self floor" not in table((first, *rest))[0]


def test_runs_cut_short_are_completed_and_old_ones_set_aside(
    drawn, run_directory, published, client
):
    victim, gone = (published.runs[slug(c.condition)] for c in drawn.results.cells[-2:])
    for run_id in (victim, gone):
        client.update_run(run_id, status="RUNNING")
    fewer = dataclasses.replace(
        drawn.results,
        cells=drawn.results.cells[:-1],
        comparisons=drawn.results.comparisons[:-1],
    )
    again = publish(fewer, run_directory, published.uri, traces=0)
    assert again.created == 0
    assert client.get_run(victim).info.status == "FINISHED"
    assert client.get_run(gone).info.status == "KILLED"
    assert client.get_run(gone).data.tags["stabfw.current"] == "no"


def test_another_spec_is_another_parent_in_the_same_experiment(drawn, run_directory, published):
    other = dataclasses.replace(drawn.results, spec_hash="other")
    again = publish(other, run_directory, published.uri, traces=0)
    assert again.experiment_id == published.experiment_id
    assert again.parent != published.parent
    assert set(again.runs.values()).isdisjoint(published.runs.values())


def test_a_deleted_experiment_comes_back(drawn, run_directory, published, client):
    client.delete_experiment(published.experiment_id)
    assert publish(drawn.results, run_directory, published.uri, traces=0).created >= 0
    assert client.get_experiment(published.experiment_id).lifecycle_stage == "active"


def test_links_lead_to_the_pages(published):
    found = dict(links(published, "http://host:1/"))
    assert (
        found["Every cell with its numbers"]
        == f"http://host:1/#/experiments/{published.experiment_id}/runs?viewStateShareKey=stabfw"
    )
    assert any(f"{published.worst}/artifacts/flips.html" in url for url in found.values())
    assert Published.parse(published.dump()) == published


def observe(drawn, directory, uri):
    from stabfw.spec import ExperimentSpec

    spec = ExperimentSpec.model_construct(tracking=Tracking(uri=uri))
    stabfw_run_end(RunEnd(drawn.results, directory, spec))


def test_observer_publishes_and_notes_where(drawn, run_directory, uri, caplog):
    caplog.set_level(logging.INFO, "stabfw")
    observe(drawn, run_directory, uri)
    note = Published.parse((run_directory / PUBLISHED).read_text())
    assert note.uri == uri
    assert "viewStateShareKey" in caplog.text
    (run_directory / PUBLISHED).unlink()


def test_observer_without_a_uri_does_nothing(drawn, tmp_path):
    observe(drawn, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("where", ["refused", "unwritable"])
def test_without_mlflow_a_run_ends_with_one_warning(drawn, tmp_path, caplog, where):
    (tmp_path / "file").write_text("")
    uri = {
        "refused": f"http://127.0.0.1:{closed_port()}",
        "unwritable": f"sqlite:///{tmp_path}/file/mlflow.db",
    }[where]
    start = time.monotonic()
    observe(drawn, tmp_path, uri)
    assert time.monotonic() - start < 5
    (record,) = caplog.records
    assert record.getMessage().startswith("not published: ")
    assert f"stabfw sync {tmp_path}" in record.getMessage()
    assert not (tmp_path / PUBLISHED).exists()


def test_a_server_that_never_answers_is_given_up(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RunError, match="refused"):
            publish(drawn.results, tmp_path, uri, traces=0)


def test_a_file_that_is_no_database_is_reported(drawn, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one" * 99)
    with pytest.raises(RunError, match="MLflow at sqlite"):
        publish(drawn.results, tmp_path, f"sqlite:///{tmp_path}/mlflow.db", traces=0)


def test_telemetry_is_off_and_patience_restored(published):
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_importing_the_observer_imports_no_mlflow():
    code = (
        "import sys, stabfw.tracking, stabfw.tracking.links, stabfw.tracking.reach;"
        "print([m for m in ('mlflow', 'jinja2', 'pyarrow') if m in sys.modules])"
    )
    out = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_columns_say_everything_there_is_to_say(drawn):
    comparison = drawn.results.comparisons[0]
    columns = comparison_columns(comparison)
    assert {"div", "div_lo", "div_hi", "loss", "acc_d", "p_mcn", "floor", "excess"} <= set(columns)
    assert columns["error_consistency"] == pytest.approx(
        comparison.metrics["error_consistency"].value, abs=5e-5
    )
    assert not any(name.startswith("self_") for name in columns)
    loss = dataclasses.replace(comparison.metrics["correct_loss_rate"], value=0.07)
    own = {"divergence_ratio": dataclasses.replace(loss, value=0.05, high=0.09), loss.name: loss}
    columns = comparison_columns(dataclasses.replace(comparison, self_floor=own))
    told = {name: value for name, value in columns.items() if name.startswith("self_")}
    assert told == {"self_floor": 0.05, "self_floor_hi": 0.09, "self_loss": 0.07}
    cell = dataclasses.replace(drawn.results.cells[0], facts={"img/s (b=8)": 2.0, "ok": True})
    assert cell_columns(cell)["img/s _b_8_"] == 2.0
    assert "ok" not in cell_columns(cell)


def test_outcome_starts_with_what_happened(tmp_path):
    change = Change(
        "q", "What\nis it?", "a", "a", "a", "b", "b", "negative", "format", 2.0, 0.5, {}
    )
    assert outcome(change) == "NEGATIVE | base 'a' | accel 'b' | margin 2.00 -> 0.50 | format"
    flips_table([change] * 501, tmp_path / "t.json")
    table = json.loads((tmp_path / "t.json").read_text())
    assert len(table["data"]) == 500
    assert table["data"][0][0] == "q | What is it? | gold a"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///b.db", Path.cwd() / "b.db"),
        ("http://x", None),
    ],
)
def test_database_of_a_uri(uri, path):
    assert database(uri) == path


def test_without_mlflow_nothing_is_left_behind(run_directory, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("stabfw.tracking.reach.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"MLflow is not installed: .* 'stabfw\[mlflow\]'"):
        publish(drawn.results, run_directory, f"sqlite:///{tmp_path}/mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()


def test_curves_of_a_fit_are_a_run(uri):
    from mlflow import MlflowClient

    curve = {step: {"loss": 1 / step, "kept": 0.5} for step in range(1, 1203)}
    event = FitEnd("lvpruning for tiny-llava", "0" * 64, 12.5, curve, None)
    publish_curves(event, "study", uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "fit · lvpruning for tiny-llava"
    assert run.info.status == "FINISHED"
    assert run.data.tags["stabfw.artefact"] == "0" * 64
    assert run.data.metrics["seconds"] == 12.5
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {point.step: point.value for point in history} == {n: 1 / n for n in curve}


def test_verdicts_arrive_as_tags_and_their_bounds_as_metrics(drawn, run_directory, uri):
    from mlflow import MlflowClient
    from stabfw.metrics import Estimate, Verdict
    from stabfw.report.gates import write_verdict
    from stabfw.report.results import GateResult, Judged

    first, second = drawn.results.comparisons[:2]
    found = Estimate(0.03, 0.0125, 0.0625, 200, 150, "clopper-pearson")
    cells = (
        Judged(first.condition, Verdict.FAIL, "why", found, found),
        Judged(second.condition, Verdict.PASS, "why", found, found),
    )
    gates = (
        GateResult("correct_loss_rate", 0.01, False, 0.95, {}, Verdict.FAIL, cells),
        GateResult("accuracy_delta", -0.1, True, 0.95, {}, Verdict.PASS, cells[1:]),
    )
    results = dataclasses.replace(drawn.results, gates=gates)
    directory = run_directory.parent / "judged"
    directory.mkdir()
    write_verdict(results, directory)
    published = publish(results, directory, uri, traces=0)
    client = MlflowClient(uri)
    parent = client.get_run(published.parent).data
    assert parent.tags["stabfw.verdict"] == "fail"
    assert parent.tags["stabfw.gate.1"] == "accuracy_delta ≥ −10.0 %: pass"
    assert (parent.metrics["gates_fail"], parent.metrics["gates_pass"]) == (1, 2)
    names = {file.path for file in client.list_artifacts(published.parent)}
    assert {"verdict.json", "junit.xml", "summary.md"} <= names
    one, two = (client.get_run(published.runs[slug(c.condition)]).data for c in (first, second))
    assert (one.tags["stabfw.verdict"], two.tags["stabfw.verdict"]) == ("fail", "pass")
    assert (one.metrics["gate_0_bound"], two.metrics["gate_1_bound"]) == (0.0625, 0.0125)
    assert "stabfw.gate.1" not in one.tags
