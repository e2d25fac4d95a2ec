"""Groups of instances that are right together only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stabfw.metrics import (
    Counts,
    Outcomes,
    by_group,
    group_floor,
    group_metrics,
    noise_floor,
    pair,
    stability_metrics,
)


def table(correct, status=None, cluster=None):
    n = len(correct)
    return Outcomes.from_columns(
        [f"q{i}" for i in range(n)],
        answer=["A" if right else "B" for right in correct],
        correct=correct,
        status=status,
        cluster=cluster or [f"c{i // 2}" for i in range(n)],
    )


GROUPS = {f"q{i}": f"g{i // 2}" for i in range(8)}


def test_a_group_is_right_only_if_all_of_it_is():
    base = table([True, True, True, True, True, False, False, False])
    fast = table([True, True, True, False, False, False, True, True])
    counts = Counts.of(by_group(pair(base, fast), GROUPS))
    # Kept; lost by one answer; wrong before and after, though one answer was lost; repaired.
    assert (counts.n_cc_same, counts.n_ci, counts.n_ii_same, counts.n_ic) == (1, 1, 1, 1)
    found = group_metrics(pair(base, fast), GROUPS)
    assert found["group_accuracy_base"].value == 0.5
    assert found["group_accuracy_delta"].value == 0.0
    assert found["group_correct_loss_rate"].value == 0.5
    assert [metric.n for metric in found.values()] == [4, 4, 2]
    assert all(metric.name == name for name, metric in found.items())


def test_a_group_that_was_not_answered_in_full_enters_no_rate():
    base = table([True] * 4)
    fast = table([True, False, True, False], status=["ok", "error", "ok", "invalid"])
    counts = Counts.of(by_group(pair(base, fast), GROUPS))
    assert (counts.n, counts.n_missing_variant_right, counts.n_ci) == (1, 1, 1)


def test_instances_without_a_group_are_left_out():
    base, fast = table([True, True, True]), table([True, True, False])
    assert len(by_group(pair(base, fast), {"q0": "g", "q1": "g", "q2": ""})) == 1
    assert group_metrics(pair(base, fast), {"q0": "", "q1": ""}) == {}
    assert group_metrics(pair(base, fast), {}) == {}
    assert group_floor([pair(base, fast)], {}) == {}


def test_groups_that_share_a_cluster_are_in_one():
    # g0 touches a and b, g1 only b, g2 only c.
    base = table([True] * 6, cluster=["a", "b", "b", "b", "c", "c"])
    clusters = by_group(pair(base, base), GROUPS).cluster.tolist()
    assert clusters[0] == clusters[1] != clusters[2]


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(0)
    lost = np.repeat(rng.random(40) < 0.3, 4)
    correct = np.ones(160, bool)
    groups = {f"q{i}": f"g{i // 2:03d}" for i in range(160)}

    def upper(clusters):
        pairs = pair(table(correct, cluster=clusters), table(~lost, cluster=clusters))
        return group_metrics(pairs, groups)["group_correct_loss_rate"]

    shared = upper([f"c{i // 4}" for i in range(160)])
    alone = upper([f"c{i // 2}" for i in range(160)])
    assert shared.value == alone.value
    assert shared.high - shared.low > alone.high - alone.low


def test_repeats_of_the_baseline_make_a_floor():
    base, again = table([True, True, True, True]), table([True, False, True, True])
    repeats = [pair(base, again), pair(base, base)]
    found = group_floor(repeats, GROUPS)
    assert found["group_correct_loss_rate"].value == pytest.approx(1 / 4)
    grouped = [by_group(repeat, GROUPS) for repeat in repeats]
    assert found["group_correct_loss_rate"].high == noise_floor(grouped)["correct_loss_rate"].high


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1))
@settings(max_examples=50)
def test_groups_of_one_are_the_instances_and_larger_ones_are_no_easier(rows):
    base, fast = table([r[0] for r in rows]), table([r[1] for r in rows])
    pairs = pair(base, fast)
    plain = stability_metrics(pairs, resamples=0)
    alone = group_metrics(pairs, {f"q{i}": f"g{i:03d}" for i in range(len(rows))})
    for name in ("accuracy_base", "accuracy_delta", "correct_loss_rate"):
        assert alone[f"group_{name}"].value == plain[name].value
    grouped = {f"q{i}": f"g{row[2]}" for i, row in enumerate(rows)}
    together = by_group(pairs, grouped)
    for place, side in enumerate((together.base, together.variant)):
        expected = {
            f"g{group}": all(row[place] for row in rows if row[2] == group)
            for group in {row[2] for row in rows}
        }
        assert side.correct.tolist() == [expected[name] for name in sorted(expected)]
