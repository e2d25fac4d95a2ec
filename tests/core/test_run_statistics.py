"""Every number of a run against the stored answers that it should follow from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from stabfw.experiment import Run, outcomes_of, run
from stabfw.metrics import Counts, MetricValue, Outcomes, holm, pair, stability_metrics
from stabfw.plan import Condition, Role
from stabfw.registry import Registry
from stabfw.report.across import ALL_PERTURBATIONS, MACRO_BENCHMARK
from stabfw.report.measure import load_outcomes
from stabfw.report.results import Comparison
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec
from stabfw.store import Store

Make = Callable[..., ExperimentSpec]


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    path = tmp_path / "choices.json"
    gold = random.Random(0).choices(["first", "second"], k=120)
    path.write_text(json.dumps([[f"which {i}?", g, f"c{i // 3}"] for i, g in enumerate(gold)]))
    return path


@pytest.fixture
def spec(make_spec: Make, choices: Path) -> ExperimentSpec:
    """Two benchmarks with options, two strengths of a perturbation, a stack that changes much."""
    return make_spec(
        models=[{"type": "parrot", "batch_sensitive": 0.1}],
        benchmarks=[
            {"type": "questions", "path": str(choices), "choices": True, "name": name, "limit": n}
            for name, n in (("long", 120), ("short", 60))
        ],
        perturbations=[{"type": "suffix", "strength": 1}, {"type": "suffix", "strength": 2}],
        stacks={"half": ["half"]},
        compare="deployed",
        controls={"noise_floor": {"repeats": 2, "stacks": True}},
        batch_size=5,
        generation={"mode": "likelihood"},
    )


def numbers(done: Run) -> list[MetricValue]:
    results = done.results
    found = [
        m
        for item in (*results.comparisons, *results.summaries)
        for metrics in (item.metrics, item.floor, item.self_floor)
        for m in metrics.values()
    ]
    for c in results.comparisons:
        found += [m for levels in c.slices.values() for v in levels.values() for m in v.values()]
        found += [c.worst.rate] if c.worst else []
    return found


def test_every_number_follows_from_the_stored_answers(
    spec: ExperimentSpec, registry: Registry
) -> None:
    from stabfw.plan import make_plan

    done = run(spec, registry=registry)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        stored = load_outcomes(plan, store)
    at: dict[tuple[str, str, str], Comparison] = {}
    for c in done.results.comparisons:
        at[c.condition.stack, c.condition.benchmark, c.condition.perturbation] = c
    assert len(at) == 6
    noisy = sorted({p for _, _, p in at} - {"clean"})
    clean, strong = at["half", "long", "clean"], at["half", "long", noisy[1]]

    def right(c: Comparison) -> tuple[np.ndarray, np.ndarray]:
        base, variant = stored[c.base_key].table, stored[c.key].table
        return base.correct, variant.correct

    # Drift of the options, by another package.
    base, variant = stored[clean.base_key], stored[clean.key]
    apart = []
    for row, (_, prediction) in base.predictions.items():
        one, other = prediction.options, variant.predictions[row][1].options
        p, q = ([np.exp(side[key]) for key in sorted(one)] for side in (one, other))
        apart.append(jensenshannon(p, q, base=2) ** 2)
    assert clean.metrics["answer_jsd"].value == pytest.approx(np.mean(apart))
    assert clean.metrics["answer_jsd"].n == 120
    assert 0 < clean.floor["answer_jsd"].value < clean.metrics["answer_jsd"].value

    # Confidence in the answer given.
    sure, hits = [], []
    for row, (_, prediction) in base.predictions.items():
        answer, score = base.scores[row]
        if answer.value in prediction.options and (
            variant.scores[row][0].value in variant.predictions[row][1].options
        ):
            sure.append(np.exp(prediction.options[answer.value]))
            hits.append(score.correct)
    brier = clean.metrics["brier_base"]
    assert brier.value == pytest.approx(np.mean((np.array(sure) - hits) ** 2))
    assert brier.n == len(sure) == 120

    # Clean beside perturbed.
    for side, name in (("base_key", "base"), ("key", "variant")):
        before, after = (stored[getattr(c, side)].table for c in (clean, strong))
        kept = np.mean(
            [
                (a == b) if s == t == "ok" else (s != "ok" and t != "ok" and x == y)
                for a, b, s, t, x, y in zip(
                    before.answer, after.answer, before.status, after.status,
                    before.text, after.text, strict=True,
                )
            ]
        )  # fmt: skip
        assert strong.metrics[f"self_consistency_{name}"].value == pytest.approx(kept)
        assert f"self_consistency_{name}" not in clean.metrics
    (b0, v0), (b1, v1) = right(clean), right(strong)
    did = (v1.mean() - b1.mean()) - (v0.mean() - b0.mean())
    assert strong.metrics["accuracy_did"].value == pytest.approx(did)
    failed = (b1 & ~v1)[b0 & v0].mean()
    assert strong.metrics["compression_specific_failure_rate"].value == pytest.approx(failed)

    # Errors under perturbations, over both strengths.
    summaries = {s.condition: s for s in done.results.summaries}
    whole = Condition("parrot", "half", "long", ALL_PERTURBATIONS, 0, Role.STACK)
    errors = np.sum([[1 - x.mean() for x in right(at["half", "long", p])] for p in noisy], axis=0)
    assert summaries[whole].members == ("suffix",)
    assert summaries[whole].metrics["mce"].value == pytest.approx(errors[1] / errors[0])
    # A random answer is no more often wrong when the question is longer.
    assert summaries[whole].metrics["rce"].value is None

    # Excess over the noise floor, perturbed beside clean, over both strengths.
    excesses = []
    for p in ("clean", *noisy):
        c = at["half", "long", p]
        excesses.append(c.metrics["excess_divergence"].value)
    more = np.mean(excesses[1:]) - excesses[0]
    assert summaries[whole].metrics["amplification"].value == pytest.approx(more)
    assert summaries[whole].metrics["amplification.suffix"].value == pytest.approx(more)
    claims = [
        s.metrics
        for s in done.results.summaries
        if s.condition.role is Role.STACK and "amplification" in s.metrics
    ]
    raw = [m["amplification_p"].value for m in claims]
    assert [m["amplification_p_holm"].value for m in claims] == pytest.approx(holm(raw))
    assert len(raw) > 1

    # Means over benchmarks.
    mean = summaries[Condition("parrot", "half", MACRO_BENCHMARK, "clean", 0, Role.STACK)]
    assert mean.members == ("long", "short")
    both = [at["half", b, "clean"].metrics["divergence_ratio"].value for b in mean.members]
    assert mean.metrics["divergence_ratio"].value == pytest.approx(np.mean(both))

    # Losses by class.
    gold = [row.references[0] for row in base.cell.dataset.rows]
    for level in ("first", "second"):
        mine = np.array([g == level for g in gold])
        loss = (b0 & ~v0)[mine].sum() / b0[mine].sum()
        assert clean.slices["gold"][level]["correct_loss_rate"].value == pytest.approx(loss)
        assert "exploratory" in clean.slices["gold"][level]["correct_loss_rate_q"].method
    assert clean.worst is not None
    losses = {
        (name, level): values["correct_loss_rate"]
        for name, levels in clean.slices.items()
        for level, values in levels.items()
        if values["correct_loss_rate"].n >= clean.worst.min_n
    }
    assert clean.worst.looked_at == len(losses)
    assert clean.worst.rate.value == max(m.value for m in losses.values())

    # The noise floor as a table, and what is in excess of it.
    repeats = 2
    assert clean.floor_counts.n_planned == repeats * 120
    assert clean.floor["divergence_ratio"].value == clean.floor_counts.divergence_ratio
    for name, rate in (
        ("divergence", "divergence_ratio"),
        ("correct_loss", "correct_loss_rate"),
        ("negative_flip", "negative_flip_rate"),
        ("positive_flip", "positive_flip_rate"),
        ("flips", "flips"),
        ("wrong_churn", "wrong_churn"),
        ("invalid", "invalid_rate_variant"),
    ):
        excess = clean.metrics[rate].value - clean.floor[rate].value
        assert clean.metrics[f"excess_{name}"].value == pytest.approx(excess)

    # Corrections over all stacks.
    raw = [c.metrics["accuracy_delta_p"].value for c in at.values()]
    adjusted = [c.metrics["accuracy_delta_p_holm"].value for c in at.values()]
    assert min(adjusted) == pytest.approx(min(1, 6 * min(raw)))
    assert all(a >= r for a, r in zip(adjusted, raw, strict=True))
    assert "exploratory" in clean.metrics["accuracy_delta_q"].method

    # Null, never NaN; bounds contain the estimate; written and read back.
    for metric in numbers(done):
        for value in (metric.value, metric.low, metric.high):
            assert value is None or isfinite(value)
        if metric.low is not None:
            assert metric.low <= metric.value + 1e-12
            assert metric.value <= metric.high + 1e-12
    text = (done.directory / "results.json").read_text()
    assert "NaN" not in text
    assert load_results(done.directory / "results.json") == done.results
    assert done.results.thresholds["near_tie_nats"] == 0.125


def test_planted_rates_lie_within_their_intervals(make_spec: Make, registry: Registry) -> None:
    """Twenty stacks change answers with known chances; 17 intervals of 95 % at least hold them."""
    all_ids = ids(run(make_spec(), registry=registry), registry)
    rates = {f"rate-{i}": (i + 1) / 50 for i in range(20)}
    rng = random.Random(1)
    stacks = {
        name: [{"type": "planted", "answers": {i: "green" for i in all_ids if rng.random() < rate}}]
        for name, rate in rates.items()
    }
    done = run(make_spec(stacks=stacks), registry=registry)
    within = []
    for c in done.results.comparisons:
        metric, rate = c.metrics["divergence_ratio"], rates[c.condition.stack]
        planted = len(stacks[c.condition.stack][0]["answers"])
        assert metric.value == planted / 100
        within.append(metric.low <= rate <= metric.high)
        # What was planted is no right answer, and repeats change nothing.
        assert c.metrics["positive_flip_rate"].value == 0
        assert c.metrics["excess_divergence"].value == pytest.approx(metric.value)
    assert sum(within) >= 17


@given(
    st.randoms(use_true_random=False),
    st.integers(1, 40),
    st.sampled_from(["green", "yes", "red", ""]),
)
@settings(
    max_examples=6,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_holds_for_any_run(
    make_spec: Make, registry: Registry, rng: random.Random, batch_size: int, answer: str
) -> None:
    first = run(make_spec(name="plain"), registry=registry)
    planted = rng.sample(ids(first, registry), rng.randrange(100))
    stacks = {
        "some": [{"type": "planted", "answers": dict.fromkeys(planted, answer)}],
        "none": [{"type": "planted"}],
    }
    done = run(make_spec(stacks=stacks, batch_size=batch_size), registry=registry)
    by_name = {c.condition.stack: c for c in done.results.comparisons}
    for c in by_name.values():
        value = {name: metric.value for name, metric in c.metrics.items()}
        counts = c.counts
        assert sum(list(asdict(counts).values())[:9]) == counts.n_planned == 100
        assert value["divergence_ratio"] >= value["flips"] >= value["negative_flip_rate"]
        loss = (value["correct_loss_rate"] or 0) * value["accuracy_base"]
        assert value["negative_flip_rate"] == pytest.approx(loss)
        change = value["positive_flip_rate"] - value["negative_flip_rate"]
        assert value["accuracy_delta"] == pytest.approx(change)
        assert (counts.worst_case_loss_rate or 0) >= (counts.correct_loss_rate or 0)
    same = by_name["none"].metrics
    for name in ("divergence_ratio", "flips", "accuracy_delta", "excess_divergence"):
        assert same[name].value == 0
    # Another batch size is another batch plan, and none of it shows.
    other = run(make_spec(stacks=stacks, batch_size=7, name="other"), registry=registry)
    assert {c.condition.stack: dict(c.metrics) for c in other.results.comparisons} == {
        name: dict(c.metrics) for name, c in by_name.items()
    }


@given(st.randoms(use_true_random=False), st.integers(2, 9))
@settings(
    max_examples=6, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_stored_answers_can_be_swapped_and_dealt_into_shards(
    make_spec: Make, registry: Registry, rng: random.Random, shards: int
) -> None:
    first = run(make_spec(name="plain"), registry=registry)
    planted = dict.fromkeys(rng.sample(ids(first, registry), rng.randrange(1, 100)), "green")
    stacks = {"some": [{"type": "planted", "answers": planted}], "half": ["half"]}
    done = run(make_spec(stacks=stacks, compare="deployed"), registry=registry)
    tables = outcomes_of(done.directory, registry)
    base = next(table for c, table in tables.items() if c.role is Role.BASELINE)
    for c in done.results.comparisons:
        variant = tables[c.condition]
        value = {name: metric.value for name, metric in c.metrics.items()}

        # The other way round, what was lost is repaired.
        back = {name: m.value for name, m in stability_metrics(pair(variant, base)).items()}
        for name in ("divergence_ratio", "flips", "wrong_churn", "mcnemar_p", "error_consistency"):
            assert back[name] == value[name]
        assert back["negative_flip_rate"] == value["positive_flip_rate"]
        assert back["accuracy_delta"] == pytest.approx(-value["accuracy_delta"])
        assert back["accuracy_base"] == value["accuracy_variant"]

        # Dealt into shards in any order, each half of a pair by itself.
        def dealt(table: Outcomes) -> list[Outcomes]:
            order = rng.sample(range(len(table)), len(table))
            return [table.select(order[i::shards]) for i in range(shards)]

        merged = pair(Outcomes.concat(dealt(base)), Outcomes.concat(dealt(variant)))
        assert Counts.of(merged) == c.counts
        again = stability_metrics(merged)
        assert again == {name: c.metrics[name] for name in again}


def ids(done: Run, registry: Registry) -> list[str]:
    tables = outcomes_of(done.directory, registry)
    return next(t for c, t in tables.items() if c.role is Role.BASELINE).instance_id.tolist()
