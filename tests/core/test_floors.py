"""Baselines and stacks against themselves in other batch compositions, from spec to page."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from stabfw.cli import invoke
from stabfw.cli.tables import print_results
from stabfw.experiment import Run, outcomes_of, run
from stabfw.plan import Condition, Plan, Role, make_plan
from stabfw.registry import Registry
from stabfw.report.across import MACRO_BENCHMARK
from stabfw.report.results import Comparison
from stabfw.report.serialise import load_results
from stabfw.report.wording import interval, percent
from stabfw.spec import ExperimentSpec
from stabfw.store import Store

Make = Callable[..., ExperimentSpec]

FLOORS = ("noise floor", "self floor")
BOTH = {"noise_floor": {"repeats": 2, "stacks": True}}
CROWDED = {"crowded": ["crowded"], "none": [{"type": "planted"}]}


def by_stack(done: Run) -> dict[str, Comparison]:
    found = {c.condition.stack: c for c in done.results.comparisons}
    assert len(found) == len(done.results.comparisons)
    return found


def planned(spec: ExperimentSpec, registry: Registry) -> Plan:
    with Store(spec.store) as store:
        return make_plan(spec, registry, store)


def test_an_acceleration_that_minds_its_company_is_told_from_a_calm_baseline(
    make_spec: Make, registry: Registry
) -> None:
    done = run(make_spec(stacks=CROWDED, controls=BOTH), registry=registry)
    crowded, none = by_stack(done)["crowded"], by_stack(done)["none"]
    tables = outcomes_of(done.directory, registry)
    mine = {c.repeat: t for c, t in tables.items() if c.stack == "crowded"}
    changed = [(mine[0].answer != mine[repeat].answer).sum() for repeat in (1, 2)]
    assert min(changed) > 10
    assert crowded.self_floor_counts.n_planned == 200
    assert crowded.self_floor_counts.n_changed == sum(changed)
    assert crowded.self_floor["divergence_ratio"].value == sum(changed) / 200
    lost = sum((mine[0].correct & ~mine[repeat].correct).sum() for repeat in (1, 2))
    right = 2 * mine[0].correct.sum()
    assert crowded.self_floor["correct_loss_rate"].value == pytest.approx(lost / right)
    # Two repeats of the same questions are no 200 questions.
    assert "mcnemar_p" not in crowded.self_floor
    for calm in (crowded.floor, none.floor, none.self_floor):
        assert calm["divergence_ratio"].value == 0
    # What is beyond the noise stays beyond that of the baseline.
    for name in ("divergence_ratio", "excess_divergence"):
        assert crowded.metrics[name].value == pytest.approx(crowded.counts.divergence_ratio)


def test_a_stack_can_be_calmer_than_its_baseline(make_spec: Make, registry: Registry) -> None:
    noisy = [{"type": "parrot", "batch_sensitive": 0.3}]
    rows = planned(make_spec(models=noisy), registry).cells[0].dataset.rows
    stacks = {
        "fixed": [{"type": "planted", "answers": {row.id: "green" for row in rows}}],
        "none": [{"type": "planted"}],
    }
    found = by_stack(run(make_spec(models=noisy, stacks=stacks, controls=BOTH), registry=registry))
    fixed, none = found["fixed"], found["none"]
    assert fixed.self_floor["divergence_ratio"].value == 0
    assert fixed.floor["divergence_ratio"].value > 0.1
    # What changes nothing is as noisy as the baseline.
    assert none.self_floor == none.floor
    assert none.self_floor_counts == none.floor_counts


def test_repeats_of_stacks_are_cells_like_others(make_spec: Make, registry: Registry) -> None:
    given: dict[str, Any] = {"stacks": CROWDED, "perturbations": ["suffix"]}
    first = run(make_spec(**given), registry=registry)
    assert all(c.self_floor == {} for c in first.results.comparisons)
    assert all(c.self_floor_counts.n_planned == 0 for c in first.results.comparisons)
    # 2 stacks, 2 sets of inputs, 2 repeats; nothing else is computed anew.
    more = make_spec(**given, controls=BOTH)
    second = run(more, registry=registry)
    assert (first.computed, second.computed) == (10, 8)
    assert run(more, registry=registry).computed == 0
    clean, noisy = (c for c in second.results.comparisons if c.condition.stack == "crowded")
    assert clean.condition.perturbation != noisy.condition.perturbation
    # Each has the floor of its own inputs.
    assert clean.self_floor["divergence_ratio"].n == noisy.self_floor["divergence_ratio"].n == 200
    assert clean.self_floor_counts != noisy.self_floor_counts
    assert clean.metrics == next(
        c.metrics for c in first.results.comparisons if c.condition == clean.condition
    )
    plan = planned(more, registry)
    batches = {cell.key: cell.batches for cell in plan.cells}
    again: dict[tuple[str, str], dict[int, Any]] = {}
    for c, key in plan.named.items():
        again.setdefault((c.stack, c.perturbation), {})[c.repeat] = batches[key]
    # Baseline and stacks are repeated in the same company.
    assert len(again) == 6
    assert all(each == next(iter(again.values())) for each in again.values())
    assert set(next(iter(again.values()))) == {0, 1, 2}
    assert len(set(next(iter(again.values())).values())) == 3


def test_controls_are_not_repeated(make_spec: Make, registry: Registry) -> None:
    controls = {**BOTH, "lossless": True, "baseline_likelihood": True}
    plan = planned(make_spec(stacks={"none": [{"type": "planted"}]}, controls=controls), registry)
    found: dict[str, list[Role]] = {}
    for condition in plan.named:
        found.setdefault(condition.stack, []).append(condition.role)
    assert sorted(found["attention-eager"]) == [Role.LIKELIHOOD, Role.LOSSLESS]
    assert sorted(found["none"]) == [Role.LIKELIHOOD, Role.FLOOR, Role.FLOOR, Role.STACK]
    labels = [c.label for c in plan.named]
    assert any(label.startswith("none · repeat 2 · clean · questions") for label in labels)
    assert len(set(labels)) == len(labels)


def test_one_question_has_no_other_company(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    one = [{"type": "questions", "path": str(questions), "limit": 1}]
    spec = make_spec(benchmarks=one, stacks=CROWDED, controls=BOTH)
    assert {c.role for c in planned(spec, registry).named} == {Role.BASELINE, Role.STACK}
    for comparison in run(spec, registry=registry).results.comparisons:
        assert comparison.floor == comparison.self_floor == {}
        assert comparison.counts.n_planned == 1
        assert comparison.base_key != comparison.key


def test_floors_are_averaged_over_benchmarks(
    make_spec: Make, registry: Registry, questions: Path
) -> None:
    two = [
        {"type": "questions", "path": str(questions), "name": name, "limit": n}
        for name, n in (("long", 100), ("short", 30))
    ]
    spec = make_spec(
        models=[{"type": "parrot", "batch_sensitive": 0.2}],
        benchmarks=two,
        stacks={"crowded": [{"type": "crowded", "share": 0.6}]},
        controls=BOTH,
    )
    done = run(spec, registry=registry)
    (summary,) = done.results.summaries
    assert summary.condition == Condition(
        "parrot", "crowded", MACRO_BENCHMARK, "clean", 0, Role.STACK
    )
    members = {c.condition.benchmark: c for c in done.results.comparisons}
    for name in ("floor", "self_floor"):
        means = getattr(summary, name)
        for rate in ("divergence_ratio", "correct_loss_rate", "negative_flip_rate", "flips"):
            one, other = (getattr(members[b], name)[rate] for b in ("long", "short"))
            mean = (one.value + other.value) / 2
            assert means[rate].value == pytest.approx(mean)
            low = sqrt((one.value - one.low) ** 2 + (other.value - other.low) ** 2) / 2
            high = sqrt((one.high - one.value) ** 2 + (other.high - other.value) ** 2) / 2
            assert means[rate].low == pytest.approx(mean - low)
            assert means[rate].high == pytest.approx(mean + high)
            assert means[rate].n == one.n + other.n == 2 * 130 or rate == "correct_loss_rate"
        assert means["divergence_ratio"].value > 0
        assert not any(rate.startswith("excess") for rate in means)
    assert summary.self_floor != summary.floor
    assert load_results(done.directory / "results.json") == done.results


def test_floors_are_shown_wherever_numbers_are(
    make_spec: Make,
    registry: Registry,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = [
        {"type": "questions", "path": str(questions), "name": name, "limit": n}
        for name, n in (("long", 100), ("short", 30))
    ]
    spec = make_spec(benchmarks=two, stacks={"crowded": ["crowded"]}, controls=BOTH)
    done = run(spec, registry=registry)
    long = next(c for c in done.results.comparisons if c.condition.benchmark == "long")
    own = long.self_floor["divergence_ratio"]
    assert own.value is not None
    page = (done.directory / "report.html").read_text()
    assert f"self floor {percent(own.value)} {interval(own)}" in page
    assert page.count('<th class="num">Self floor</th>') == 3
    assert "<dt>Self floor</dt>" in page
    assert "8 repeats for the floors are not listed" in page

    console = Console(width=150, record=True)
    print_results(console, done.results)
    table = console.export_text()
    capsys.readouterr()
    assert "self floor" in table
    assert interval(own) in table

    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.dump()))
    assert invoke(["plan", str(path)]) == 0
    told = capsys.readouterr().out
    assert "crowded · repeat 2 · clean · short · parrot" in told
    assert "12 cells, 12 in the store" in told
    assert invoke(["show", str(done.directory), "--metrics"]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if "floor: " in line]
    place = "clean · {} · parrot"
    assert [title.strip() for title in titles] == [
        *(f"noise floor: baseline · {place.format(name)}" for name in ("long", "short")),
        *(f"self floor: crowded · {place.format(name)}" for name in ("long", "short")),
        *(f"{name}: crowded · {place.format(MACRO_BENCHMARK)}" for name in FLOORS),
    ]
    after = shown.split(f"self floor: crowded · {place.format('long')}")[1]
    table = after.split("crowded · clean")[0].splitlines()
    for name, value in (
        ("divergence_ratio", f"{own.value:.4f}"),
        ("n_ii_diff", str(long.self_floor_counts.n_ii_diff)),
    ):
        (line,) = [text for text in table if name in text]
        assert f" {value} " in line
    # Of a run without them, nothing is said.
    plain = run(make_spec(benchmarks=two, stacks={"crowded": ["crowded"]}), registry=registry)
    assert "self floor" not in (plain.directory / "report.html").read_text().lower()
    print_results(console, plain.results)
    assert "self floor" not in console.export_text()


def test_drift_beyond_the_noise_is_that_of_each_instance(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    """By hand from the stored log-probabilities; a likelihood is stored of every option."""
    path = tmp_path / "choices.json"
    path.write_text(json.dumps([[f"which {i}?", "first", f"c{i // 3}"] for i in range(60)]))
    spec = make_spec(
        models=[{"type": "parrot", "batch_sensitive": 0.4}],
        benchmarks=[{"type": "questions", "path": str(path), "choices": True}],
        stacks={"half": ["half"]},
        compare="deployed",
        generation={"mode": "likelihood"},
    )
    (comparison,) = run(spec, registry=registry).results.comparisons
    plan = planned(spec, registry)
    with Store(spec.store) as store:
        options = {
            c: {i: dict(p.options) for i, (_, p) in store.predictions(key).items()}
            for c, key in plan.named.items()
        }
    base, half, *again = (
        next(o for c, o in options.items() if (c.role, c.repeat) == at)
        for at in ((Role.BASELINE, 0), (Role.STACK, 0), (Role.FLOOR, 1), (Role.FLOOR, 2))
    )

    def kl(one: dict[str, float], other: dict[str, float]) -> float:
        p, q = (np.exp([side[key] for key in sorted(one)]) for side in (one, other))
        return float(np.sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))))

    noise = [np.mean([kl(base[i], repeat[i]) for repeat in again]) for i in base]
    moved = [kl(base[i], half[i]) for i in base]
    assert 0 < np.mean(noise) < np.mean(moved)
    excess = comparison.metrics["excess_answer_kl"]
    assert excess.value == pytest.approx(np.mean(moved) - np.mean(noise))
    assert excess.n == 60
    assert excess.low < excess.value < excess.high
    for name in ("answer_kl", "answer_jsd"):
        beyond = comparison.metrics[name].value - comparison.floor[name].value
        assert comparison.metrics[f"excess_{name}"].value == pytest.approx(beyond)
    # Without repeats nothing is beyond them.
    alone = run(
        spec.model_copy(
            update={"controls": spec.controls.model_copy(update={"noise_floor": None})}
        ),
        registry=registry,
    )
    assert "answer_kl" in alone.results.comparisons[0].metrics
    assert "excess_answer_kl" not in alone.results.comparisons[0].metrics
