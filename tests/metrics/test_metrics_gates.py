"""Verdicts and sample sizes: what a gate may say, and what has to hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from stabfw.metrics import (
    Counts,
    Estimate,
    Outcomes,
    Verdict,
    clopper_pearson,
    combined,
    decide,
    floor_estimate,
    gate_estimate,
    harms,
    largest_passing,
    noise_floor,
    pair,
    power,
    sample_size,
    stability_metrics,
)
from stabfw.metrics.gates import EXCESSES, RATES

EXAMPLES = settings(max_examples=40)
ALL = [*RATES, *EXCESSES, "accuracy_delta"]
SEVERITY = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]


def table(right, *, size=1, status=None):
    """Outcomes of questions that are answered right or not, `size` of them about a picture."""
    n = len(right)
    return Outcomes.from_columns(
        [f"q{i:06d}" for i in range(n)],
        answer=["A" if r else "B" for r in right],
        correct=right,
        cluster=[f"c{i // size:06d}" for i in range(n)],
        status=status,
    )


def losing(n, lost, *, size=1):
    """The pair of a baseline that is always right, and a variant that loses some of that."""
    right = np.ones(n, dtype=bool)
    variant = right.copy()
    variant[np.linspace(0, n - 1, lost, dtype=int)] = False
    return pair(table(right, size=size), table(variant, size=size))


def verdict(pairs, limit, metric="correct_loss_rate", repeats=()):
    found = gate_estimate(metric, pairs, repeats)
    floor = floor_estimate(metric, repeats)
    return decide(found, limit, floor, at_least=metric == "accuracy_delta")[0]


@st.composite
def cells(draw):
    """Two cells with answers of all kinds, some missing, several to a picture."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    size = draw(st.sampled_from([1, 3]))

    def cell():
        status = rng.choice(["ok"] * 5 + ["invalid", "error", "missing"], n)
        right = (status == "ok") & (rng.random(n) < 0.7)
        return table(right, size=size, status=status.tolist())

    return cell(), cell(), [cell() for _ in range(draw(st.integers(1, 3)))]


# Sample sizes


@pytest.mark.parametrize(
    ("rate", "needed"),
    [
        (0.0, (299, 299)),
        (0.001, (473, 473)),
        (0.0025, (773, 913)),
        (0.005, (1941, 2546)),
        (0.0075, (8753, 11907)),
    ],
)
def test_sample_sizes_are_the_smallest_that_have_the_power(rate, needed):
    for wanted, n in zip((0.8, 0.9), needed, strict=True):
        assert sample_size(rate, 0.01, wanted=wanted) == n
        most = largest_passing(n, 0.01)
        tests = [binomtest(k, n, 0.01, "less").pvalue < 0.05 for k in (most, most + 1)]
        assert tests == [True, False]
        assert binom.cdf(most, n, rate) >= wanted
        assert power(n - 1, rate, 0.01) < wanted


@pytest.mark.parametrize(
    ("rate", "wanted", "n"),
    [
        (0.0, 0.8, 299),
        (0.001, 0.8, 474),
        (0.0025, 0.8, 774),
        (0.0025, 0.9, 914),
        (0.005, 0.8, 2064),
        (0.005, 0.9, 2669),
        (0.0075, 0.8, 9204),
        (0.0075, 0.9, 12354),
    ],
)
def test_sizes_found_by_stepping_have_the_power_and_are_not_much_larger(rate, wanted, n):
    assert power(n, rate, 0.01) >= wanted
    assert 0.93 * n < sample_size(rate, 0.01, wanted=wanted) <= n


@pytest.mark.parametrize(
    ("n", "most"), [(298, None), (299, 0), (500, 1), (1000, 4), (2000, 12), (5000, 38), (10000, 83)]
)
def test_the_largest_number_of_losses_that_passes(n, most):
    assert largest_passing(n, 0.01) == most


def test_no_size_is_found_for_a_rate_at_the_limit():
    assert sample_size(0.01, 0.01) is None
    assert sample_size(0.00999, 0.01) is None


@given(st.integers(1, 3000), st.floats(0.001, 0.3), st.floats(0.6, 0.999))
@EXAMPLES
def test_what_passes_is_what_the_exact_bound_allows(n, limit, confidence):
    most = largest_passing(n, limit, confidence)
    least = -1 if most is None else most
    if most is not None:
        assert clopper_pearson(most, n, 2 * confidence - 1).high < limit
    assert clopper_pearson(least + 1, n, 2 * confidence - 1).high >= limit * (1 - 1e-9)


@given(st.integers(50, 3000), st.floats(0.005, 0.2), st.floats(0, 1), st.floats(0, 1))
@EXAMPLES
def test_power_falls_with_the_true_rate(n, limit, one, other):
    low, high = sorted((one * limit, other * limit))
    assert power(n, low, limit) >= power(n, high, limit) - 1e-12


# Decisions


def test_verdict_by_the_number_of_losses():
    found = [verdict(losing(1000, k), 0.01) for k in (0, 4, 5, 15, 40)]
    assert found == [SEVERITY[i] for i in (0, 0, 1, 1, 2)]
    # By the exact tests, as scipy makes them.
    assert binomtest(4, 1000, 0.01, "less").pvalue < 0.05 < binomtest(5, 1000, 0.01, "less").pvalue
    first = next(k for k in range(1000) if binomtest(k, 1000, 0.01, "greater").pvalue < 0.05)
    assert verdict(losing(1000, first), 0.01) is Verdict.FAIL
    assert verdict(losing(1000, first - 1), 0.01) is Verdict.INCONCLUSIVE


def test_questions_about_one_picture_count_for_less():
    assert verdict(losing(300, 0), 0.01) is Verdict.PASS
    assert verdict(losing(300, 0, size=3), 0.01) is Verdict.INCONCLUSIVE
    found = gate_estimate("correct_loss_rate", losing(300, 0, size=3))
    assert (found.method, found.clusters) == ("korn-graubard", 100)


@pytest.mark.parametrize("lost", [0, 99])
def test_with_too_few_pictures_the_verdict_stays_open(lost):
    assert verdict(losing(99, lost), 0.5) is Verdict.INCONCLUSIVE
    assert verdict(losing(297, 3 * lost, size=3), 0.5) is Verdict.INCONCLUSIVE
    assert verdict(losing(100, lost), 0.5) is not Verdict.INCONCLUSIVE


@given(st.integers(100, 400), st.sampled_from([1, 3]), st.floats(0.005, 0.3), st.sampled_from(ALL))
@EXAMPLES
def test_verdict_is_monotone_in_the_losses(n, size, limit, metric):
    n = n * size
    calm = [losing(n, 0, size=size)]
    limit = -limit if metric == "accuracy_delta" else limit
    lost = sorted({0, 1, 2, n // 50, n // 20, n // 8, n // 3, n})
    order = [SEVERITY.index(verdict(losing(n, k, size=size), limit, metric, calm)) for k in lost]
    assert order == sorted(order)


@given(st.integers(0, 6), st.integers(100, 300), st.sampled_from(ALL))
@EXAMPLES
def test_bounds_shrink_with_the_number_of_questions(lost, n, metric):
    widths = []
    for times in (1, 2, 8):
        found = gate_estimate(metric, losing(n * times, lost * times), [losing(n * times, 0)])
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


@given(cells(), st.sampled_from(ALL), st.booleans())
@EXAMPLES
def test_bounds_contain_the_estimate_and_stay_in_range(three, metric, worst_case):
    base, variant, repeats = three
    found = gate_estimate(
        metric, pair(base, variant), [pair(base, r) for r in repeats], worst_case=worst_case
    )
    least = 0 if metric in RATES else -1
    assert least <= found.low <= found.high <= 1
    assert found.clusters <= found.n <= len(base)
    if found.value is not None:
        assert found.low <= found.value <= found.high


@given(cells(), st.sampled_from([*RATES, "excess_divergence", "accuracy_delta"]))
@EXAMPLES
def test_the_worst_case_is_never_better_than_the_complete_case(three, metric):
    base, variant, repeats = three
    pairs, floor = pair(base, variant), [pair(base, r) for r in repeats]
    worst = gate_estimate(metric, pairs, floor)
    complete = gate_estimate(metric, pairs, floor, worst_case=False)
    if complete.value is None or worst.value is None:
        return
    if metric == "accuracy_delta":
        assert worst.value <= complete.value + 1e-12
    elif metric in RATES:
        assert worst.value >= complete.value - 1e-12


@given(cells())
@EXAMPLES
def test_complete_cases_are_the_metrics_that_results_show(three):
    base, variant, repeats = three
    pairs = pair(base, variant)
    shown = stability_metrics(pairs, resamples=0)
    for metric in [*RATES, "accuracy_delta"]:
        found = gate_estimate(metric, pairs, worst_case=False)
        assert (found.value, found.n) == (pytest.approx(shown[metric].value), shown[metric].n)
    floors = [pair(base, r) for r in repeats]
    for metric in [*RATES, "accuracy_delta"]:
        floor = floor_estimate(metric, floors)
        assert floor is not None
        assert floor.value == pytest.approx(noise_floor(floors, resamples=0)[metric].value)


@given(cells())
@EXAMPLES
def test_worst_case_counts_agree_with_the_table_of_counts(three):
    base, variant, _ = three
    pairs = pair(base, variant)
    counts = Counts.of(pairs)
    for worst, rate in ((True, counts.worst_case_loss_rate), (False, counts.correct_loss_rate)):
        among, harmed = harms(pairs, "correct_loss", worst_case=worst)
        assert not (harmed & ~among).any()
        assert rate == (pytest.approx(harmed[among].mean()) if among.any() else None)


def test_a_crash_cannot_help_to_pass():
    n = 400
    right = np.ones(n, dtype=bool)
    variant = right.copy()
    variant[:40] = False
    crashed = ["error" if i < 40 else "ok" for i in range(n)]
    for metric in ALL:
        limit = -0.05 if metric == "accuracy_delta" else 0.05
        calm = [pair(table(right), table(right))]
        gone = pair(table(right), table(variant, status=crashed))
        assert verdict(gone, limit, metric, calm) is Verdict.FAIL
        missing = pair(table(right), table(right).select(np.arange(n) >= 40))
        assert verdict(missing, limit, metric, calm) is Verdict.FAIL
        assert (
            decide(
                gate_estimate(metric, gone, calm, worst_case=False),
                limit,
                at_least=metric == "accuracy_delta",
            )[0]
            is Verdict.PASS
        )


@pytest.mark.parametrize("metric", [*EXCESSES])
def test_what_the_baseline_did_not_answer_has_no_floor_and_counts_as_lost(metric):
    n, right = 400, np.ones(400, dtype=bool)
    failed = ["error" if i < 40 else "ok" for i in range(n)]
    base = table(right, status=failed)
    pairs, floor = pair(base, table(right)), [pair(base, table(right))] * 2
    worst = gate_estimate(metric, pairs, floor)
    assert (worst.value, worst.n) == (pytest.approx(0.1), 400)
    complete = gate_estimate(metric, pairs, floor, worst_case=False)
    assert (complete.value, complete.n) == (0, 360)


def test_noise_that_breaks_the_limit_makes_it_not_measurable():
    noisy = [losing(1000, 30)]
    for lost in (0, 30, 400):
        assert verdict(losing(1000, lost), 0.02, repeats=noisy) is Verdict.NOT_MEASURABLE
    assert verdict(losing(1000, 0), 0.06, repeats=noisy) is Verdict.PASS
    negative = gate_estimate("accuracy_delta", losing(1000, 0))
    floor = floor_estimate("accuracy_delta", noisy)
    assert decide(negative, -0.02, floor, at_least=True)[0] is Verdict.NOT_MEASURABLE
    # What lies beyond the floor can still be judged.
    assert verdict(losing(1000, 30), 0.02, "excess_correct_loss", noisy) is Verdict.PASS
    assert verdict(losing(1000, 100), 0.02, "excess_correct_loss", noisy) is Verdict.FAIL


def test_a_silent_floor_is_not_blamed_for_too_few_questions():
    silent = [losing(150, 0)]
    assert floor_estimate("correct_loss_rate", silent).high > 0.01
    assert verdict(losing(150, 0), 0.01, repeats=silent) is Verdict.INCONCLUSIVE
    assert verdict(losing(150, 60), 0.01, repeats=silent) is Verdict.FAIL


@pytest.mark.parametrize("lost", [0, 6])
def test_repeats_of_a_floor_are_no_new_questions(lost):
    one, ten = ([losing(300, lost)] * times for times in (1, 10))
    floors = [floor_estimate("correct_loss_rate", repeats) for repeats in (one, ten)]
    assert floors[0].high == pytest.approx(floors[1].high, rel=0.01)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("metric", ["excess_correct_loss", "accuracy_delta", "correct_loss_rate"])
def test_few_losses_do_not_pass_a_limit_that_the_truth_is_at(metric, size):
    """A loss of exactly the limit passes in one of twenty cases at the most."""
    n, rate = 600, 0.01
    calm = [losing(n, 0, size=size)]
    limit = -rate if metric == "accuracy_delta" else rate
    passing = [
        k for k in range(12) if verdict(losing(n, k, size=size), limit, metric, calm) is SEVERITY[0]
    ]
    assert sum(binom.pmf(k, n, rate) for k in passing) <= 0.05
    if size == 1:
        assert passing == list(range(largest_passing(n, rate) + 1))


def test_over_all_every_cell_has_to_pass():
    worst = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.NOT_MEASURABLE, Verdict.FAIL]
    for place, each in enumerate(worst):
        assert combined(worst[: place + 1]) is each
        assert combined(reversed(worst[: place + 1])) is each
    assert combined([]) is Verdict.INCONCLUSIVE


def test_what_has_no_bounds_is_refused():
    pairs = losing(10, 1)
    with pytest.raises(ValueError, match="'mcnemar_p' cannot be gated"):
        gate_estimate("mcnemar_p", pairs)
    with pytest.raises(ValueError, match="needs a noise floor"):
        gate_estimate("excess_divergence", pairs)
    assert decide(Estimate(None, 0.0, 1.0, 0, 0, ""), 0.5)[0] is Verdict.INCONCLUSIVE
