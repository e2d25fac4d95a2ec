"""Corrections for looking at many numbers, worst slices, averages and corruption errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stabfw.metrics import (
    Excess,
    MetricValue,
    Outcomes,
    accuracy_change_p,
    benjamini_hochberg,
    corruption_errors,
    holm,
    macro_average,
    mean_amplification,
    pair,
    proportion_interval,
    slice_contrasts,
    stability_metrics,
    wilson,
    worst_slice,
)
from stabfw.metrics.several import contrast_p
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

EXAMPLES = settings(max_examples=40)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
@EXAMPLES
def test_corrections_equal_statsmodels(p_values) -> None:
    for ours, method in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        expected = multipletests(p_values, method=method)[1]
        assert ours(p_values) == pytest.approx(expected.tolist())
        assert ours([*p_values, None])[-1] is None
        assert ours([None, *p_values])[1:] == ours(p_values)


def test_corrections_of_nothing() -> None:
    assert holm([]) == benjamini_hochberg([]) == []
    assert holm([None]) == benjamini_hochberg([None]) == [None]


def cells(right, after, **columns):
    ids = [f"q{i:04d}" for i in range(len(right))]
    return pair(
        Outcomes.from_columns(ids, answer=right, correct=right, **columns),
        Outcomes.from_columns(ids, answer=after, correct=after, **columns),
    )


def test_accuracy_change_is_mcnemar_alone_and_regression_in_clusters() -> None:
    rng = np.random.default_rng(0)
    right, after = rng.random(300) < 0.7, rng.random(300) < 0.6
    alone = cells(right, after)
    assert accuracy_change_p(alone).value == stability_metrics(alone)["mcnemar_p"].value
    groups = np.arange(300) // 5
    shared = accuracy_change_p(cells(right, after, cluster=groups.tolist()))
    fit = OLS(after.astype(float) - right, np.ones(300)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert (shared.value, shared.method) == (pytest.approx(fit.pvalues[0]), "cluster-t")
    assert accuracy_change_p(cells(right, right)).value == 1.0
    assert accuracy_change_p(cells([], [])).value is None


@pytest.mark.parametrize("greater", [False, True])
def test_contrasts_equal_fisher_and_regression(greater) -> None:
    rng = np.random.default_rng(1)
    inside, hits = rng.random(240) < 0.3, rng.random(240) < 0.2
    hits |= inside & (rng.random(240) < 0.1)
    table = [[np.sum(hits & inside), np.sum(~hits & inside)],
             [np.sum(hits & ~inside), np.sum(~hits & ~inside)]]  # fmt: skip
    expected = stats.fisher_exact(table, "greater" if greater else "two-sided").pvalue
    assert contrast_p(hits, inside, np.arange(240), greater=greater) == pytest.approx(expected)
    # Hits that come in whole images: the cluster-robust error is the larger one.
    groups = np.arange(240) // 4
    inside = groups % 6 == 0
    hits = np.repeat(rng.random(60) < np.where(np.arange(60) % 6 == 0, 0.5, 0.05), 4)
    design = np.stack([np.ones(240), inside], axis=1)
    fit = OLS(hits.astype(float), design).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=True
    )
    t = fit.tvalues[1] * np.sqrt(59 / 60)
    one_sided = stats.t.sf(t, 59)
    expected = one_sided if greater else 2 * min(one_sided, 1 - one_sided)
    assert contrast_p(hits, inside, groups, greater=greater) == pytest.approx(expected)


def test_a_small_slice_without_hits_is_no_proof() -> None:
    """Where no hit varies the robust error vanishes, and any difference would seem sure."""
    groups = np.arange(300) // 3
    hits = (np.arange(300) % 20 == 7) & (np.arange(300) > 60)
    inside = np.arange(300) < 30
    assert contrast_p(hits, inside, groups) > 0.1


def test_no_contrast_where_nothing_varies() -> None:
    some, none = np.array([True, False] * 4), np.zeros(8, dtype=bool)
    for hits, inside in ((none, some), (~none, some), (some, none), (some, ~none)):
        assert contrast_p(hits, inside, np.arange(8)) is None


def sliced(n: int = 400, seed: int = 0, hurt: float = 0.3, per_image: int = 1):
    rng = np.random.default_rng(seed)
    kind = np.array(["count", "colour", "shape", "text"])[np.arange(n) % 4]
    lost = rng.random(n) < np.where(kind == "count", hurt, 0.02)
    return cells(
        np.ones(n, bool),
        ~lost,
        slices={"kind": kind.tolist(), "half": ["a" if i < n / 2 else "b" for i in range(n)]},
        cluster=(np.arange(n) // per_image).tolist(),
    )


@pytest.mark.parametrize("per_image", [1, 5])
def test_the_slice_that_is_hurt_is_found(per_image) -> None:
    worst = worst_slice(sliced(per_image=per_image))
    assert (worst.slice, worst.level, worst.looked_at) == ("kind", "count", 6)
    assert worst.rate.n == 100
    assert worst.p_holm < 1e-4
    q = dict(slice_contrasts(sliced(per_image=per_image), "correct_loss_rate"))
    assert q["kind", "count"] < 1e-5
    assert min(q["half", "a"], q["half", "b"]) > 0.05
    # The interval allows for having looked at six.
    pairs = sliced(per_image=per_image)
    inside = pairs.slices["kind"] == "count"
    lost = ~pairs.variant.correct[inside]
    bounds = proportion_interval(lost, pairs.cluster_codes[inside], 1 - 0.05 / 6, exact=True)
    assert (worst.rate.low, worst.rate.high) == (bounds.low, bounds.high)


def test_small_slices_are_not_picked() -> None:
    n = 100
    kind = ["rare"] * 5 + ["common"] * 95
    pairs = cells([True] * n, [False] * 5 + [True] * 95, slices={"kind": kind})
    assert worst_slice(pairs).level == "common"
    assert worst_slice(pairs, min_n=5).level == "rare"
    assert worst_slice(pairs, min_n=1000) is None
    assert worst_slice(cells([True], [True])) is None
    with pytest.raises(ValueError, match="unknown rate"):
        worst_slice(pairs, "flips")


def test_worst_slice_can_be_asked_for_divergence() -> None:
    worst = worst_slice(sliced(), "divergence_ratio")
    assert (worst.level, worst.rate.name) == ("count", "divergence_ratio")


def share(k: int, n: int) -> MetricValue:
    bounds = wilson(k, n)
    return MetricValue("flips", k / n, bounds.low, bounds.high, n, bounds.method)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(50, 500)), min_size=1, max_size=6))
@EXAMPLES
def test_macro_average_weighs_benchmarks_equally(pairs) -> None:
    members = [share(k, n) for k, n in pairs]
    mean = macro_average(members)
    assert mean.value == pytest.approx(np.mean([k / n for k, n in pairs]))
    assert mean.n == sum(n for _, n in pairs)
    assert 0 <= mean.low <= mean.value + 1e-12
    assert mean.value <= mean.high + 1e-12 <= 1 + 1e-9
    if len(members) == 1:
        assert (mean.low, mean.high) == pytest.approx((members[0].low, members[0].high))
    widths = [m.high - m.low for m in members]
    assert mean.high - mean.low <= np.mean(widths) + 1e-12


def test_equal_symmetric_members_shrink_by_the_root_of_their_number() -> None:
    one = MetricValue("accuracy_delta", 0.0, -0.1, 0.1, 100, "cluster-t")
    assert macro_average([one] * 4).high == pytest.approx(0.05)


def test_macro_average_is_null_where_a_member_is() -> None:
    null = MetricValue("flips", None, None, None, 0, "wilson")
    assert macro_average([share(1, 10), null]).value is None
    pointless = MetricValue("flips", 0.5, None, None, 10, "wilson")
    mean = macro_average([share(5, 10), pointless])
    assert (mean.value, mean.low, mean.n) == (0.5, None, 20)


def wrong(base: int, variant: int, n: int = 200, per_image: int = 1):
    ids = range(n)
    return cells(
        [i >= base for i in ids],
        [i >= variant for i in ids],
        cluster=[i // per_image for i in ids],
    )


def test_corruption_errors_by_hand() -> None:
    clean = wrong(20, 30)
    blur, typos = [wrong(40, 50), wrong(60, 90)], [wrong(50, 50)]
    found = corruption_errors(clean, {"blur": blur, "typos": typos}, resamples=100)
    assert found["ce.blur"].value == pytest.approx((50 + 90) / (40 + 60))
    assert found["ce.typos"].value == pytest.approx(1.0)
    assert found["mce"].value == pytest.approx(1.2)
    assert found["rce.blur"].value == pytest.approx((20 + 60) / (20 + 40))
    assert found["rce.typos"].value == pytest.approx(20 / 30)
    assert found["rce"].value == pytest.approx((80 / 60 + 20 / 30) / 2)
    assert {metric.n for metric in found.values()} == {200}
    for name in ("mce", "rce", "ce.blur", "rce.blur"):
        assert found[name].low <= found[name].value <= found[name].high
    # Both sides err on the same instances, whichever are drawn.
    assert found["ce.typos"].low is None


def test_corruption_errors_are_null_where_the_baseline_makes_none() -> None:
    found = corruption_errors(wrong(0, 5), {"blur": [wrong(0, 9)]}, resamples=50)
    assert {metric.value for metric in found.values()} == {None}


def test_relative_errors_are_null_where_the_perturbation_does_no_harm() -> None:
    found = corruption_errors(
        wrong(40, 40), {"blur": [wrong(42, 60)], "fog": [wrong(90, 95)]}, resamples=50
    )
    assert found["ce.blur"].value == pytest.approx(60 / 42)
    assert (found["rce.blur"].value, found["rce"].value) == (None, None)
    assert found["rce.fog"].value == pytest.approx(55 / 50)
    helped = corruption_errors(wrong(90, 90), {"blur": [wrong(20, 40)]}, resamples=50)
    assert helped["rce"].value is None


def test_a_model_against_itself_has_corruption_error_one() -> None:
    found = corruption_errors(wrong(10, 10), {"fog": [wrong(60, 60)]}, resamples=50)
    assert [m.value for m in found.values()] == [1.0] * 4


def test_corruption_errors_join_clusters_by_name() -> None:
    # Shuffled tables hold the same clusters in another order.
    clean, noisy = wrong(40, 50, per_image=5), wrong(80, 120, per_image=5)
    order = np.random.default_rng(0).permutation(200)
    same = corruption_errors(clean, {"fog": [noisy]})
    other = corruption_errors(clean.select(order), {"fog": [noisy]})
    assert other["rce"].value == pytest.approx(same["rce"].value)
    alone = corruption_errors(wrong(40, 50), {"fog": [wrong(80, 120)]})
    assert same["mce"].high - same["mce"].low > alone["mce"].high - alone["mce"].low


def amplified(values: list[float], start: int = 0, per_image: int = 1) -> Excess:
    ids = np.array([f"q{start + i:03}" for i in range(len(values))], dtype=object)
    clusters = np.array([(start + i) // per_image for i in range(len(values))], dtype=object)
    return Excess(ids, clusters, np.array(values, dtype=np.float64))


def test_amplification_is_averaged_within_each_instance_by_hand() -> None:
    blur = [amplified([1, 0, 0, 1]), amplified([1, 1, 0, 0])]
    typos = [amplified([0, 0, 1, -1, 1], start=1)]
    found = mean_amplification({"blur": blur, "typos": typos})
    assert found["amplification.blur"].value == pytest.approx(np.mean([1, 0.5, 0, 0.5]))
    assert found["amplification.typos"].value == pytest.approx(0.2)
    # Only q001 to q003 are known everywhere, and both perturbations weigh the same.
    assert found["amplification"].n == 3
    each = np.array([0.5, 0, 1.5]) / 2
    assert found["amplification"].value == pytest.approx(each.mean())
    fit = OLS(each, np.ones(3)).fit()
    assert found["amplification_p"].value == pytest.approx(fit.pvalues[0])
    low, high = fit.conf_int(0.05)[0]
    assert (found["amplification"].low, found["amplification"].high) == pytest.approx((low, high))


def test_severities_are_no_new_instances_of_amplification() -> None:
    rng = np.random.default_rng(0)
    one = amplified(rng.integers(-1, 2, 90).tolist(), per_image=3)
    alone, thrice = mean_amplification({"fog": [one]}), mean_amplification({"fog": [one] * 3})
    for name, metric in alone.items():
        again = thrice[name]
        assert (again.value, again.low, again.high) == pytest.approx(
            (metric.value, metric.low, metric.high)
        )
    assert thrice["amplification"].n == 90
    clustered = OLS(one.value, np.ones(90)).fit(
        cov_type="cluster", cov_kwds={"groups": one.cluster.astype(int)}, use_t=True
    )
    assert alone["amplification_p.fog"].value == pytest.approx(clustered.pvalues[0])


def test_no_amplification_at_all_is_no_claim() -> None:
    found = mean_amplification({"fog": [amplified([0.0] * 50)]})
    assert (found["amplification"].value, found["amplification_p"].value) == (0.0, 1.0)
    assert found["amplification"].low < 0 < found["amplification"].high
