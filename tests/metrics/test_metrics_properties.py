"""What must hold for any two tables of outcomes."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stabfw.metrics import (
    METRICS,
    Counts,
    Outcomes,
    Pairs,
    noise_floor,
    pair,
    stability_metrics,
)

FAST = {"resamples": 60}
EXAMPLES = settings(max_examples=50)

PARTITION = 9  # the first fields of Counts are a partition of the planned instances


def outcomes(rows, order):
    """Build one cell's table from its (id, image, status, answer, text, margin) rows."""
    rows = [rows[i] for i in order]
    return Outcomes.from_columns(
        [r[0] for r in rows],
        cluster=[r[1] for r in rows],
        status=[r[2] for r in rows],
        answer=[r[3] if r[2] == "ok" else None for r in rows],
        text=[r[4] for r in rows],
        correct=[r[2] == "ok" and r[3] == "A" for r in rows],
        margin=[r[5] for r in rows],
    )


@st.composite
def cells(draw, statuses=("ok", "ok", "ok", "ok", "invalid", "truncated", "error", "missing")):
    """Draw two cells over overlapping instances, each in its own order."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    images = rng.integers(0, draw(st.integers(1, 60)), n)

    def cell():
        kept = np.flatnonzero(rng.random(n) < 0.95)
        rows = [
            (
                f"q{i:02d}",
                f"img{images[i]}",
                str(rng.choice(statuses)),
                str(rng.choice(["A", "B", "C"], p=[0.6, 0.2, 0.2])),
                str(rng.choice(["x", "y"])),
                float(rng.choice([0.05, 0.5, 2.0, np.nan])),
            )
            for i in kept
        ]
        return outcomes(rows, rng.permutation(len(rows)))

    return cell(), cell()


def reorder(table: Outcomes, seed: int) -> Outcomes:
    order = np.random.default_rng(seed).permutation(len(table))
    columns = ("instance_id", "cluster", "answer", "text", "status", "correct", "score", "margin")
    return Outcomes(input_hash=None, **{name: getattr(table, name)[order] for name in columns})


def shards(table: Outcomes, k: int) -> list[Outcomes]:
    columns = ("instance_id", "cluster", "answer", "text", "status", "correct", "score", "margin")
    return [
        Outcomes(input_hash=None, **{name: getattr(table, name)[i::k] for name in columns})
        for i in range(k)
    ]


def values(pairs: Pairs) -> dict[str, float | None]:
    return {name: m.value for name, m in stability_metrics(pairs, **FAST).items()}


@given(cells())
@EXAMPLES
def test_counts_partition_the_planned_instances(two):
    pairs = pair(*two)
    counts = Counts.of(pairs)
    assert sum(astuple(counts)[:PARTITION]) == counts.n_planned == len(pairs)
    assert counts.n == int(pairs.valid.sum())
    assert counts.n_changed == int((pairs.changed & pairs.valid).sum())


@given(cells())
@EXAMPLES
def test_divergence_at_least_flips_at_least_negative_flips(two):
    counts = Counts.of(pair(*two))
    assert counts.n_changed >= counts.n_ci + counts.n_ic >= counts.n_ci
    found = values(pair(*two))
    if counts.n:
        assert found["divergence_ratio"] >= found["flips"] >= found["negative_flip_rate"]


@given(cells())
@EXAMPLES
def test_identities(two):
    found = values(pair(*two))
    if found["accuracy_base"] is None:
        return
    nfr, pfr = found["negative_flip_rate"], found["positive_flip_rate"]
    assert found["accuracy_delta"] == pytest.approx(pfr - nfr)
    assert found["accuracy_delta"] == pytest.approx(
        found["accuracy_variant"] - found["accuracy_base"]
    )
    assert found["mean_score_delta"] == pytest.approx(found["accuracy_delta"])
    if found["correct_loss_rate"] is not None:
        assert nfr == pytest.approx(found["correct_loss_rate"] * found["accuracy_base"])
    if found["negative_share"] is not None:
        assert nfr == pytest.approx(found["negative_share"] * found["divergence_ratio"])
    # One reference and exact scoring: no right answer differs from another right answer.
    assert found["divergence_ratio"] == pytest.approx(nfr + pfr + found["wrong_churn"])


@given(cells())
@EXAMPLES
def test_swapping_the_sides_swaps_negative_and_positive(two):
    forth, back = values(pair(*two)), values(pair(*reversed(two)))
    assert forth["negative_flip_rate"] == back["positive_flip_rate"]
    assert forth["positive_flip_rate"] == back["negative_flip_rate"]
    for name in ("divergence_ratio", "flips", "wrong_churn", "coverage", "error_consistency"):
        assert forth[name] == back[name]


@given(cells())
@EXAMPLES
def test_a_cell_against_itself_is_zero_everywhere(two):
    found = values(pair(two[0], reorder(two[0], 1)))
    for name in (
        "accuracy_delta",
        "divergence_ratio",
        "negative_flip_rate",
        "positive_flip_rate",
        "correct_loss_rate",
        "flips",
        "wrong_churn",
        "mean_score_delta",
        "relative_nfr",
    ):
        assert found[name] in (0.0, None)
    assert found["negative_share"] is None
    assert found["error_consistency"] in (1.0, None)
    assert found["mcnemar_p"] in (1.0, None)


@given(cells(), st.integers(0, 99))
@EXAMPLES
def test_row_order_changes_nothing_bit_for_bit(two, seed):
    straight = pair(*two)
    mixed = pair(reorder(two[0], seed), reorder(two[1], seed + 1))
    assert stability_metrics(straight, **FAST) == stability_metrics(mixed, **FAST)
    assert Counts.of(straight) == Counts.of(mixed)
    assert noise_floor([straight] * 2, **FAST) == noise_floor([mixed] * 2, **FAST)


@given(cells(), st.integers(1, 5))
@EXAMPLES
def test_sharded_tables_give_the_same_bits(two, k):
    merged = pair(Outcomes.concat(shards(two[0], k)), Outcomes.concat(shards(two[1], 6 - k)))
    assert stability_metrics(merged, **FAST) == stability_metrics(pair(*two), **FAST)


@given(cells(), st.integers(1, 5))
@EXAMPLES
def test_merged_counts_of_shards_are_the_counts_of_the_whole(two, k):
    pairs = pair(*two)
    part = np.arange(len(pairs)) % k
    parts = [Counts.of(pairs.select(part == i)) for i in range(k)]
    assert sum(parts, Counts()) == Counts.of(pairs)


@given(cells())
@EXAMPLES
def test_bounds_contain_the_estimate_and_stay_in_range(two):
    signed = {"accuracy_delta", "mean_score_delta", "error_consistency", "answer_kappa"}
    unbounded = {"relative_nfr"}
    pairs = pair(*two)
    for metrics in (stability_metrics(pairs, **FAST), noise_floor([pairs] * 3, **FAST)):
        assert set(metrics) | {"mcnemar_p"} == set(METRICS)
        for name, metric in metrics.items():
            if metric.value is None:
                assert metric.low is None
                assert metric.high is None
                continue
            assert np.isfinite(metric.value)
            low = metric.value if metric.low is None else metric.low
            high = metric.value if metric.high is None else metric.high
            assert low <= metric.value <= high
            assert low >= (-1 if name in signed else 0)
            assert high <= 1 or name in unbounded


@given(cells())
@EXAMPLES
def test_worst_case_is_never_better_than_complete_case(two):
    counts = Counts.of(pair(*two))
    if counts.correct_loss_rate is not None:
        assert counts.worst_case_loss_rate >= counts.correct_loss_rate
