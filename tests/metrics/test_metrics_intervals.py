"""Intervals against published tables, other packages and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stabfw.metrics import (
    bootstrap_interval,
    clopper_pearson,
    design_effect,
    korn_graubard,
    mean_interval,
    newcombe_paired,
    paired_difference_interval,
    proportion_interval,
    sandwich_error,
    wilson,
)
from statsmodels.stats.proportion import proportion_confint

CASES = [(0, 10), (1, 10), (7, 10), (10, 10), (3, 1000), (499, 1000)]


@pytest.mark.parametrize(("k", "n"), CASES)
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_proportions_equal_statsmodels(k, n, confidence):
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "beta")):
        bounds = ours(k, n, confidence)
        low, high = proportion_confint(k, n, alpha=1 - confidence, method=method)
        assert (bounds.low, bounds.high) == pytest.approx((low, high), abs=1e-10)


def test_sample_size_table_of_the_one_percent_gate():
    largest = {299: 0, 500: 1, 1000: 4, 2000: 12, 5000: 38}
    for n, k in largest.items():
        assert clopper_pearson(k, n, 0.90).high < 0.01
        assert clopper_pearson(k + 1, n, 0.90).high >= 0.01
    assert clopper_pearson(0, 298, 0.90).high >= 0.01


def test_fagerland_table():
    bounds = newcombe_paired(1, 1, 7, 12)
    assert round(bounds.low, 3) == -0.507
    assert round(bounds.high, 3) == -0.026


def test_paired_example_of_miller():
    # "Adding error bars to evals", the MATH row: 5,000 questions, 65.5 % and 63.0 % right,
    # correlation 0.50; the difference is 2.5 % (0.7 %), 95 % from 1.2 % to 3.8 %.
    n, first, second = 5000, 3275, 3150
    spread = np.sqrt(0.655 * 0.345 * 0.630 * 0.370)
    both = round(n * (0.655 * 0.630 + 0.5 * spread))
    counts = (both, first - both, second - both, n - first - second + both)
    a = np.repeat([True, True, False, False], counts)
    b = np.repeat([True, False, True, False], counts)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.001)
    change = a.astype(float) - b
    error, _ = sandwich_error((change - change.mean()) / n, np.arange(n))
    assert round(100 * error, 1) == 0.7
    for bounds in (paired_difference_interval(a, b), mean_interval(change)):
        assert (round(100 * bounds.low, 1), round(100 * bounds.high, 1)) == (1.2, 3.8)


def test_newcombe_is_antisymmetric_and_bounded():
    forth, back = newcombe_paired(50, 4, 9, 37), newcombe_paired(50, 9, 4, 37)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    everything = newcombe_paired(0, 5, 0, 0)
    assert everything.high == 1.0
    assert newcombe_paired(0, 0, 0, 0).low == -1.0


@pytest.mark.parametrize("seed", range(4))
def test_cluster_t_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 140)
    values = rng.normal(size=140) + 0.5 * rng.normal(size=25)[groups]
    fit = sm.OLS(values, np.ones(140)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    ours = mean_interval(values, groups)
    assert (ours.low, ours.high) == pytest.approx(tuple(fit.conf_int(0.05)[0]), rel=1e-9)


def test_independent_mean_is_the_ordinary_t_interval():
    values = np.array([0.0, 1.0, 4.0, 2.0, 2.5])
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    bounds = mean_interval(values)
    assert (bounds.low, bounds.high) == pytest.approx(expected)


def test_a_mean_that_never_varies_is_not_known_exactly():
    bounds = mean_interval(np.zeros(300), limits=(-1.0, 1.0))
    assert bounds.high == pytest.approx(clopper_pearson(0, 300).high)
    assert bounds.low == -bounds.high
    at_the_edge = mean_interval(np.ones(300), limits=(-1.0, 1.0))
    assert at_the_edge.high == 1.0
    assert at_the_edge.low == pytest.approx(1 - 2 * clopper_pearson(0, 300).high)
    assert mean_interval(np.ones(300)).low == 1.0


def test_one_cluster_tells_nothing():
    same = np.zeros(9, dtype=np.int64)
    assert korn_graubard(np.ones(9, dtype=bool), same).low == 0.0
    assert np.isnan(mean_interval(np.arange(9.0), same).low)
    assert mean_interval(np.arange(9.0), same, limits=(0.0, 8.0)).high == 8.0


def reference_korn_graubard(y, g, confidence):
    """Spell the definition out, cluster by cluster."""
    n, p = len(y), y.mean()
    labels = sorted(set(g.tolist()))
    groups = [y[g == label].astype(float) for label in labels]
    m = len(groups)
    sizes = np.array([len(x) for x in groups], dtype=float)
    fit = sm.OLS(y.astype(float), np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": g})
    sandwich = fit.cov_params()[0, 0] / (p * (1 - p) / (n - 1))
    between = sum(len(x) * (x.mean() - p) ** 2 for x in groups) / (m - 1)
    within = sum(((x - x.mean()) ** 2).sum() for x in groups) / (n - m)
    size = (n - (sizes**2).sum() / n) / (m - 1)
    icc = (between - within) / (between + (size - 1) * within)
    deff = max(sandwich, 1 + ((sizes**2).sum() / n - 1) * max(icc, 0.05))
    q = 1 - (1 - confidence) / 2
    n_eff = min(n, n / deff * (stats.t.ppf(q, n - 1) / stats.t.ppf(q, m - 1)) ** 2)
    return proportion_confint(n_eff * p, n_eff, alpha=1 - confidence, method="beta"), deff


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_korn_graubard_equals_its_definition(seed, spread):
    rng = np.random.default_rng(seed)
    g = rng.integers(0, 30, 150)
    y = rng.random(150) < np.clip(0.3 + spread * rng.normal(size=30), 0, 1)[g]
    for confidence in (0.90, 0.95):
        (low, high), deff = reference_korn_graubard(y, g, confidence)
        bounds = korn_graubard(y, g, confidence)
        assert (bounds.low, bounds.high) == pytest.approx((low, high), rel=1e-9)
        assert design_effect(y, g) == pytest.approx(deff)


def test_a_cautious_bound_doubts_few_successes_and_believes_many():
    g = np.repeat(np.arange(2000), 5)
    for hits, icc in ((0, 0.4), (1, 0.4), (4, 0.25), (16, 0.1), (400, 0.05)):
        y = np.zeros(len(g), dtype=bool)
        y[5 * np.arange(hits)] = True
        plain, cautious = korn_graubard(y, g), korn_graubard(y, g, cautious=True)
        n_eff = len(g) / (1 + 4 * icc)
        expected = clopper_pearson(hits / len(g) * n_eff, n_eff)
        assert cautious.high == pytest.approx(expected.high, rel=1e-3)
        assert cautious.high >= plain.high
        assert proportion_interval(y, g, exact=True) == cautious
        flipped = korn_graubard(~y, g, cautious=True)
        assert (flipped.low, flipped.high) == pytest.approx((1 - cautious.high, 1 - cautious.low))


@pytest.mark.parametrize("each", [2, 5, 20, 50])
def test_a_few_losses_never_bound_tighter_than_none(each):
    g = np.repeat(np.arange(200), each)
    highs, lows = [], []
    for hits in range(12):
        y = np.zeros(len(g), dtype=bool)
        y[each * np.arange(hits)] = True
        highs.append(korn_graubard(y, g, cautious=True).high)
        lows.append(korn_graubard(~y, g, cautious=True).low)
    assert min(highs) == highs[0]
    assert max(lows) == lows[0]


@pytest.mark.parametrize(("images", "each", "icc"), [(100, 10, 0.3), (100, 5, 0.5), (400, 5, 0.3)])
def test_a_loss_at_the_limit_passes_in_at_most_a_twentieth(images, each, icc):
    rng = np.random.default_rng(0)
    rate, trials = 0.02, 800
    a, b = rate * (1 / icc - 1), (1 - rate) * (1 / icc - 1)
    codes = np.repeat(np.arange(images), each)
    passed = 0
    for _ in range(trials):
        lost = (rng.random((images, each)) < rng.beta(a, b, (images, 1))).ravel()
        passed += proportion_interval(lost, codes, 0.90, exact=True).high < rate
    assert passed / trials <= 0.05


def test_clusters_that_agree_entirely_count_once():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(200), 5)
    y = np.repeat(rng.random(200) < 0.2, 5)
    assert design_effect(y, g) == pytest.approx(5, rel=0.02)
    one_each = clopper_pearson(int(y[::5].sum()), 200)
    assert korn_graubard(y, g).high == pytest.approx(one_each.high, abs=0.005)


def test_no_success_at_all_still_pays_for_clusters():
    y = np.zeros(1000, dtype=bool)
    assert design_effect(y, np.repeat(np.arange(100), 10)) == pytest.approx(1.45)


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_one_question_per_cluster_changes_nothing(flags):
    y = np.array(flags)
    labels = np.array([f"img{i}" for i in range(len(y))], dtype=object)
    assert design_effect(y, labels) == 1.0
    kg, plain = korn_graubard(y, labels), clopper_pearson(int(y.sum()), len(y))
    assert (kg.low, kg.high) == pytest.approx((plain.low, plain.high))
    assert proportion_interval(y, labels) == wilson(int(y.sum()), len(y))
    assert proportion_interval(y, labels) == proportion_interval(y)
    assert proportion_interval(y, exact=True) == plain


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=60))
def test_proportion_bounds_contain_the_estimate(rows):
    y, g = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    for bounds in (proportion_interval(y, g), proportion_interval(y), korn_graubard(y, g)):
        assert 0 <= bounds.low <= y.mean() <= bounds.high <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=60))
def test_labels_do_not_matter_only_the_grouping_does(rows):
    y, g = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    named = np.array([f"image {-label}" for label in g], dtype=object)
    huge = g * 10**12 - 5
    assert korn_graubard(y, g).high == pytest.approx(korn_graubard(y, named).high, rel=1e-12)
    assert korn_graubard(y, g).high == pytest.approx(korn_graubard(y, huge).high, rel=1e-12)


@given(st.integers(0, 20), st.integers(1, 20), st.integers(2, 5))
def test_bounds_shrink_with_n(k, extra, times):
    n = k + extra
    for method in (wilson, clopper_pearson):
        small, large = method(k, n), method(k * times, n * times)
        assert large.high - large.low < small.high - small.low


@given(st.integers(1, 400), st.sampled_from([0.90, 0.95]))
def test_bounds_grow_with_every_hit_so_a_verdict_cannot_turn_back(n, confidence):
    for method in (wilson, clopper_pearson):
        highs = [method(k, n, confidence).high for k in range(min(n, 30) + 1)]
        lows = [method(k, n, confidence).low for k in range(min(n, 30) + 1)]
        assert highs == sorted(highs)
        assert lows == sorted(lows)


@given(st.integers(0, 2**16), st.integers(2, 4))
@settings(max_examples=40)
def test_clustered_bounds_shrink_with_more_clusters(seed, times):
    rng = np.random.default_rng(seed)
    y, g = rng.random(40) < 0.3, rng.integers(0, 12, 40)
    more_y = np.tile(y, times)
    more_g = np.concatenate([g + 12 * i for i in range(times)])
    small, large = korn_graubard(y, g), korn_graubard(more_y, more_g)
    assert large.high - large.low < small.high - small.low


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=2))
def test_difference_bounds_contain_the_estimate(rows):
    a, b = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    g = np.array([r[2] for r in rows])
    delta = a.mean() - b.mean()
    for clusters in (None, g):
        bounds = paired_difference_interval(a, b, clusters)
        assert -1 <= bounds.low <= delta + 1e-12
        assert delta - 1e-12 <= bounds.high <= 1


def test_counts_and_clusters_do_not_mix():
    assert proportion_interval((3, 10)) == wilson(3, 10)
    assert proportion_interval((0, 0)).high == 1.0
    with pytest.raises(ValueError, match="one success per row"):
        proportion_interval((3, 10), np.arange(10))


def ratio(sums):
    return sums[:, 0] / sums[:, 1]


def test_bootstrap_of_a_ratio_equals_scipy():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6, 80).astype(float)
    hits = rng.binomial(sizes.astype(int), 0.2).astype(float)
    ours = bootstrap_interval(np.stack([hits, sizes], axis=1), ratio, resamples=6000, seed=1)
    theirs = stats.bootstrap(
        (hits, sizes),
        lambda x, y, axis=-1: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True, method="BCa", n_resamples=6000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_bootstrap_is_seeded_and_says_when_it_cannot_know():
    totals = np.array([[1.0, 2.0], [0.0, 3.0], [2.0, 2.0], [1.0, 1.0], [0.0, 2.0]])
    assert bootstrap_interval(totals, ratio) == bootstrap_interval(totals, ratio)
    assert bootstrap_interval(totals, ratio) != bootstrap_interval(totals, ratio, seed=1)
    assert np.isnan(bootstrap_interval(totals[:1], ratio).low)
    assert np.isnan(bootstrap_interval(np.ones((9, 2)), ratio).low)


def test_grouped_bootstrap_of_many_clusters_keeps_its_width():
    rng = np.random.default_rng(5)
    totals = np.stack([rng.poisson(0.3, 20_000), np.full(20_000, 2)], axis=1).astype(float)
    bounds = bootstrap_interval(totals, ratio, resamples=2000)
    error = totals[:, 0].std() / np.sqrt(20_000) / 2
    assert bounds.high - bounds.low == pytest.approx(2 * 1.96 * error, rel=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_error_equals_miller(seed):
    """Equation 4 of "Adding error bars to evals": the variance of the mean plus all covariances."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 200)
    scores = rng.normal(size=200) + rng.normal(size=40)[groups]
    residuals, n, m = scores - scores.mean(), 200, len(set(groups.tolist()))
    variance = (residuals**2).sum() / n**2
    for group in range(40):
        (rows,) = np.nonzero(groups == group)
        products = np.outer(residuals[rows], residuals[rows])
        variance += (products.sum() - np.trace(products)) / n**2
    error, clusters = sandwich_error(residuals / n, groups)
    assert clusters == m
    assert error == pytest.approx(np.sqrt(variance * m / (m - 1)))
    bounds = mean_interval(scores, groups)
    assert bounds.high - bounds.low == pytest.approx(2 * stats.t.ppf(0.975, m - 1) * error)
