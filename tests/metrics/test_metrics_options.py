"""Drift of option probabilities, and what confidence is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss
from stabfw.metrics import confidence_metrics, excess_option_drift, option_drift

EXAMPLES = settings(max_examples=40)


def logprobs(seed: int, n: int, k: int = 4) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (n, k))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_divergences_equal_scipy() -> None:
    a, b = logprobs(0, 50), logprobs(1, 50)
    found = option_drift(a, b, range(50))
    p, q = np.exp(a), np.exp(b)
    assert found["answer_kl"].value == pytest.approx(np.mean(entropy(p, q, axis=1)))
    # scipy gives the square root.
    distance = jensenshannon(p, q, base=2, axis=1)
    assert found["answer_jsd"].value == pytest.approx(np.mean(distance**2))
    assert found["answer_jsd"].value != pytest.approx(np.mean(distance), rel=0.05)


def test_opposite_certainties_are_one_bit_apart_and_not_infinite() -> None:
    found = option_drift([[0.0, -np.inf]] * 2, [[-np.inf, 0.0]] * 2, "ab")
    assert found["answer_jsd"].value == pytest.approx(1.0)
    assert found["answer_kl"].value == pytest.approx(np.log(1e10), rel=1e-6)


def test_rows_of_unequal_length_equal_an_array_of_each() -> None:
    one, other = logprobs(0, 3, 2), logprobs(1, 3, 2)
    longer, last = logprobs(2, 3, 5), logprobs(3, 3, 5)
    mixed = option_drift(
        [*one.tolist(), *longer.tolist()], [*other.tolist(), *last.tolist()], range(6)
    )
    parts = [option_drift(one, other, range(3)), option_drift(longer, last, range(3))]
    for name in ("answer_kl", "answer_jsd"):
        assert mixed[name].value == pytest.approx(np.mean([p[name].value for p in parts]))


def test_other_options_are_refused_and_none_are_null() -> None:
    with pytest.raises(ValueError, match="other options"):
        option_drift([[0.0, -1.0]], [[0.0]], "a")
    with pytest.raises(ValueError, match="no options"):
        option_drift([[]], [[]], "a")
    found = option_drift([], [], [])
    assert [(m.value, m.low, m.n) for m in found.values()] == [(None, None, 0)] * 2


@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(1, 10))
@EXAMPLES
def test_drift_is_bounded_zero_against_itself_and_jsd_is_symmetric(
    seed: int, n: int, images: int
) -> None:
    a, b = logprobs(seed, n), logprobs(seed + 1, n)
    clusters = (np.arange(n) % images).tolist()
    forth, back = option_drift(a, b, clusters), option_drift(b, a, clusters)
    assert forth["answer_jsd"].value == pytest.approx(back["answer_jsd"].value)
    for metric in forth.values():
        assert 0 <= metric.low <= metric.value <= metric.high
    assert forth["answer_jsd"].high <= 1
    # Pinsker: the divergence in nats is at least half the squared distance.
    distance = np.abs(np.exp(a) - np.exp(b)).sum(axis=1)
    assert forth["answer_kl"].value >= np.mean(distance**2) / 2 - 1e-9
    assert all(m.value == 0 for m in option_drift(a, a, clusters).values())
    order = np.random.default_rng(seed).permutation(n)
    shuffled = option_drift(a[order], b[order], np.array(clusters)[order].tolist())
    for name, metric in forth.items():
        assert shuffled[name].value == pytest.approx(metric.value)
        assert shuffled[name].high == pytest.approx(metric.high)


def test_excess_is_the_divergence_minus_the_mean_of_the_repeats_of_each_instance() -> None:
    """By hand: repeats that have only some of the instances count for these alone."""
    a, b, once, twice = (logprobs(seed, 5) for seed in range(4))
    again = [[*once[:4], None], [None, *twice[1:3], None, None]]
    found = excess_option_drift(a, b, again, "aabbc")
    p, q, r, s = (np.exp(side) for side in (a, b, once, twice))
    first, second = entropy(p, r, axis=1), entropy(p, s, axis=1)
    noise = [first[0], (first[1] + second[1]) / 2, (first[2] + second[2]) / 2, first[3]]
    each = entropy(p, q, axis=1)[:4] - noise
    metric = found["excess_answer_kl"]
    assert metric.value == pytest.approx(np.mean(each))
    assert metric.n == 4
    # Two clusters of two: the error of their totals, and one degree of freedom.
    from scipy.stats import t

    totals = np.array([each[:2].sum(), each[2:].sum()]) - 2 * each.mean()
    reach = t.ppf(0.975, 1) * np.sqrt(2 * (totals**2).sum()) / 4
    assert metric.high == pytest.approx(min(metric.value + reach, np.log(1e10)))
    assert metric.low == pytest.approx(max(metric.value - reach, -np.log(1e10)))
    apart = [jensenshannon(p, side, base=2, axis=1) ** 2 for side in (q, r, s)]
    noise = [apart[1][0], *(apart[1][1:3] + apart[2][1:3]) / 2, apart[1][3]]
    assert found["excess_answer_jsd"].value == pytest.approx(np.mean(apart[0][:4] - noise))


def test_excess_needs_repeats_and_the_same_options() -> None:
    rows = [[0.0, -1.0]] * 2
    with pytest.raises(ValueError, match="at least one repeat"):
        excess_option_drift(rows, rows, [], "ab")
    with pytest.raises(ValueError, match="other options"):
        excess_option_drift(rows, rows, [[None, [0.0]]], "ab")
    nothing = excess_option_drift(rows, rows, [[None, None]], "ab")
    assert {(m.value, m.low, m.n) for m in nothing.values()} == {(None, None, 0)}


@given(st.integers(0, 2**16), st.integers(2, 30), st.integers(1, 4))
@EXAMPLES
def test_excess_over_a_baseline_that_repeats_itself_is_the_drift(
    seed: int, n: int, repeats: int
) -> None:
    a, b = logprobs(seed, n), logprobs(seed + 1, n)
    drift = option_drift(a, b, range(n))
    excess = excess_option_drift(a, b, [a] * repeats, range(n))
    for name, metric in drift.items():
        assert excess[f"excess_{name}"].value == metric.value
        assert excess[f"excess_{name}"].n == metric.n
    # A variant that is the repeat is not beyond it, and what is noisier than it is below zero.
    for metric in excess_option_drift(a, b, [b] * repeats, range(n)).values():
        assert metric.value == pytest.approx(0, abs=1e-12)
    for name, metric in excess_option_drift(a, a, [b], range(n)).items():
        assert metric.value == pytest.approx(-drift[name.removeprefix("excess_")].value)
        assert metric.low < metric.value < metric.high


def drawn(seed: int, n: int, distinct: int = 1000):
    rng = np.random.default_rng(seed)
    sure = np.round(rng.random((2, n)) * distinct) / distinct
    return sure, rng.random((2, n)) < sure


def brute_ece(sure: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((sure * 15).astype(int), 14)
    return sum(
        (bins == b).mean() * abs(right[bins == b].mean() - sure[bins == b].mean())
        for b in set(bins.tolist())
    )


def brute_aurc(sure: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([(~right)[sure >= t].mean() for t in sure]))


@given(st.integers(0, 2**16), st.integers(1, 60), st.sampled_from([3, 1000]))
@EXAMPLES
def test_confidence_metrics_equal_their_definitions(seed: int, n: int, distinct: int) -> None:
    sure, right = drawn(seed, n, distinct)
    found = confidence_metrics(*sure, *right, list(range(n)), resamples=20)
    for i, side in enumerate(("base", "variant")):
        assert found[f"ece_{side}"].value == pytest.approx(brute_ece(sure[i], right[i]))
        assert found[f"aurc_{side}"].value == pytest.approx(brute_aurc(sure[i], right[i]))
        expected = brier_score_loss(right[i], sure[i], pos_label=1, labels=[False, True])
        assert found[f"brier_{side}"].value == pytest.approx(expected)
    for name in ("ece", "brier", "aurc"):
        delta = found[f"{name}_variant"].value - found[f"{name}_base"].value
        assert found[f"{name}_delta"].value == pytest.approx(delta)
    for metric in found.values():
        assert metric.n == n
        if metric.low is not None:
            assert metric.low <= metric.value + 1e-12
            assert metric.value <= metric.high + 1e-12


def test_area_of_a_ranking_that_is_right() -> None:
    sure = np.array([0.9, 0.8, 0.7, 0.6])
    best = confidence_metrics(sure, sure, [1, 1, 0, 0], [0, 0, 1, 1], list("abcd"))
    assert best["aurc_base"].value == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert best["aurc_variant"].value == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)


def test_interval_of_the_area_equals_the_jackknife() -> None:
    from scipy.stats import t

    (sure, after), (right, right_after) = drawn(3, 250)
    found = confidence_metrics(sure, after, right, right_after, list(range(250)), resamples=20)
    whole, keep = brute_aurc(sure, right), ~np.eye(250, dtype=bool)
    left_out = np.array([brute_aurc(sure[k], right[k]) for k in keep])
    error = np.sqrt(249 / 250 * ((left_out - left_out.mean()) ** 2).sum())
    metric = found["aurc_base"]
    assert metric.high - whole == pytest.approx(t.ppf(0.975, 249) * error, rel=0.03)


def test_confidence_is_the_same_twice_and_unknown_of_nothing() -> None:
    (sure, _), (right, _) = drawn(0, 80)
    same = confidence_metrics(sure, sure, right, right, list(range(80)), resamples=20)
    assert all(same[f"{name}_delta"].value == 0 for name in ("ece", "brier", "aurc"))
    nothing = confidence_metrics([], [], [], [], [])
    assert {(m.value, m.low, m.high, m.n) for m in nothing.values()} == {(None, None, None, 0)}
    always = confidence_metrics([0.9] * 5, [0.9] * 5, [True] * 5, [True] * 5, list("abcde"))
    assert (always["aurc_base"].value, always["aurc_base"].high) == (0.0, None)


def test_interval_of_the_calibration_error_allows_for_its_bias() -> None:
    """A model that is calibrated has an error above 0 in any sample."""
    rng = np.random.default_rng(0)
    sure = rng.random(300)
    right = rng.random(300) < sure
    metric = confidence_metrics(sure, sure, right, right, list(range(300)))["ece_base"]
    assert metric.value > 0.05
    assert 0 <= metric.low < metric.value / 3
    off = confidence_metrics(sure, sure, right & (sure > 0.8), right, list(range(300)))
    assert off["ece_base"].low > 0.1


def test_clusters_widen_the_intervals() -> None:
    sure, right = (np.repeat(x, 6, axis=1) for x in drawn(5, 60))
    shared = confidence_metrics(*sure, *right, np.repeat(np.arange(60), 6).tolist(), resamples=200)
    apart = confidence_metrics(*sure, *right, list(range(360)), resamples=200)
    for name in ("brier_base", "aurc_base", "aurc_delta"):
        assert shared[name].value == pytest.approx(apart[name].value)
        wide = shared[name].high - shared[name].low
        assert wide > 1.8 * (apart[name].high - apart[name].low)
