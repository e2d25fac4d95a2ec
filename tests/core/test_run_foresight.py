"""From which margin on a run says that answers hold, and where it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stabfw.experiment import Run, run
from stabfw.metrics import FORESIGHT
from stabfw.registry import Registry
from stabfw.report.instances import InstanceRow, read_instances
from stabfw.report.layout import INSTANCES, REPORT, cell_directory
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec
from stabfw.tracking.columns import comparison_columns

Make = Callable[..., ExperimentSpec]
#: Answers with a smaller lead than this change.
PLANTED = 0.6


@pytest.fixture
def make(make_spec: Make, tmp_path: Path) -> Make:
    """Makes specs of 1,000 questions, two an image."""
    path = tmp_path / "many.json"
    path.write_text(json.dumps([[f"what is {i}?", "red", f"c{i // 2}"] for i in range(1000)]))

    def made(**changes: Any) -> ExperimentSpec:
        plain = {
            "benchmarks": [{"type": "questions", "path": str(path)}],
            "controls": {"noise_floor": None},
            "stacks": {"planted": ["planted"]},
            "batch_size": 100,
        }
        return make_spec(**plain | changes)

    return made


def rows_of(done: Run) -> list[InstanceRow]:
    (comparison,) = done.results.comparisons
    return read_instances(cell_directory(done.directory, comparison.condition) / INSTANCES)


@pytest.fixture
def planted(make: Make, registry: Registry) -> dict[str, Any]:
    rows = rows_of(run(make(), registry=registry))
    answers = {r.instance_id: "other" for r in rows if (r.base.margin or 0) < PLANTED}
    assert 100 < len(answers) < 200
    return {"stacks": {"planted": [{"type": "planted", "answers": answers}]}}


def test_planted_changes_are_foreseen_and_told_everywhere(
    make: Make, registry: Registry, planted: dict[str, Any], stabfw: Callable[..., str]
) -> None:
    done = run(make(**planted), registry=registry)
    (comparison,) = done.results.comparisons
    metrics, rows = comparison.metrics, rows_of(done)
    threshold = metrics["foresight_threshold"].value
    # Two percent of the answers may change, so it can lie a little lower than what was planted.
    assert 0.4 < threshold < 0.9
    parts = {part: [r for r in rows if r.foresight_part == part] for part in ("fit", "check")}
    assert len(parts["fit"]) + len(parts["check"]) == len(rows) == 1000
    assert not {r.cluster for r in parts["fit"]} & {r.cluster for r in parts["check"]}
    assert metrics["foresight_threshold"].n == len(parts["fit"])
    for row in rows:
        assert row.near_tie == (row.base.margin <= 0.125)
        assert row.foresight_covered == (row.variant.margin >= threshold)
    sure = [r.kind != "none" for r in parts["check"] if r.foresight_covered]
    assert metrics["foresight_coverage"].value == len(sure) / len(parts["check"])
    assert metrics["foresight_risk"].value == np.mean(sure)
    changed = [not r.foresight_covered for r in parts["check"] if r.kind != "none"]
    assert metrics["foresight_foreseen"].value == np.mean(changed) > 0.8

    assert load_results(done.directory / "results.json") == done.results
    page = (done.directory / REPORT).read_text()
    assert "Foreseeable changes" in page
    assert "at most 2\N{NARROW NO-BREAK SPACE}% of the answers change" in page
    shown = " ".join(stabfw("show", str(done.directory), "--metrics").split())
    assert f"foresight_threshold │ {threshold:.4f} │" in shown
    assert "Where the lead of the accelerated model's first token over the next" in shown
    assert comparison_columns(comparison)["foresee_nats"] == pytest.approx(threshold, abs=1e-4)


def test_what_cannot_be_certified_is_said(
    make: Make, registry: Registry, planted: dict[str, Any], stabfw: Callable[..., str]
) -> None:
    strict = {"at_most": 0.001, "margin": "baseline", "metric": "negative_flip_rate"}
    done = run(make(**planted, foresight=strict), registry=registry)
    (comparison,) = done.results.comparisons
    assert {comparison.metrics[name].value for name in FORESIGHT} == {None}
    page = (done.directory / REPORT).read_text()
    assert "none certified" in page
    assert "of the answers turn from right to wrong" in page
    shown = " ".join(stabfw("show", str(done.directory), "--metrics").split())
    assert "none certified: too few answers to fit it on" in shown
    assert all(r.foresight_covered is None and r.foresight_part for r in rows_of(done))


def test_nobody_has_to_ask(make: Make, registry: Registry, planted: dict[str, Any]) -> None:
    done = run(make(**planted, foresight=None), registry=registry)
    assert not set(done.results.comparisons[0].metrics) & set(FORESIGHT)
    assert "Foreseeable changes" not in (done.directory / REPORT).read_text()
    assert {(r.foresight_part, r.foresight_covered) for r in rows_of(done)} == {("", None)}


def test_harm_that_needs_right_answers_is_not_told_where_these_may_not_hold(
    make: Make, registry: Registry
) -> None:
    for metric, told in (("divergence_ratio", True), ("correct_loss_rate", False)):
        done = run(make(perturbations=["typos"], foresight={"metric": metric}), registry=registry)
        clean, typos = done.results.comparisons
        assert not typos.label_preserved
        assert "foresight_threshold" in clean.metrics
        assert ("foresight_threshold" in typos.metrics) is told
        rows = read_instances(cell_directory(done.directory, typos.condition) / INSTANCES)
        assert any(row.foresight_part for row in rows) is told
