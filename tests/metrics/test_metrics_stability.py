"""The metric set, the noise floor and what lies beyond it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from stabfw.metrics import (
    METRICS,
    Outcomes,
    accuracy_did,
    amplification_per_instance,
    auroc,
    by_slice,
    clopper_pearson,
    compression_specific_failure_rate,
    excess_metrics,
    excess_per_instance,
    noise_floor,
    pair,
    perturbation_amplification,
    self_consistency,
    stability_metrics,
)
from statsmodels.stats.contingency_tables import mcnemar


def run(answers, gold, **columns):
    """Return outcomes of multiple-choice answers given as a string, one letter each."""
    ids = [f"q{i:04d}" for i in range(len(answers))]
    right = [a == g for a, g in zip(answers, gold, strict=True)]
    return Outcomes.from_columns(ids, answer=list(answers), correct=right, **columns)


def random_runs(n=600, per_image=3, seed=0, change=0.15):
    rng = np.random.default_rng(seed)
    gold = rng.choice(list("ABCD"), n)
    base = np.where(rng.random(n) < 0.7, gold, rng.choice(list("ABCD"), n))
    variant = np.where(rng.random(n) < change, rng.choice(list("ABCD"), n), base)
    shared = {"cluster": [f"img{i // per_image}" for i in range(n)]}
    margin = np.where(base == variant, rng.exponential(2.0, n), rng.exponential(0.7, n))
    return run(base, gold, margin=margin, **shared), run(variant, gold, **shared)


def test_values_by_hand():
    metrics = stability_metrics(pair(run("AAAABBBBCC", "AAAAAAAAAA"), run("AAABAABCBC", "A" * 10)))
    assert list(metrics) == list(METRICS)
    value = {name: metric.value for name, metric in metrics.items()}
    # correct before: 0-3; lost: 3; repaired: 4, 5; churn: 7 (B to C), 8 (C to B)
    assert value["accuracy_base"] == 0.4
    assert value["accuracy_variant"] == 0.5
    assert value["accuracy_delta"] == 0.1
    assert value["divergence_ratio"] == 0.5
    assert value["negative_flip_rate"] == 0.1
    assert value["positive_flip_rate"] == 0.2
    assert value["negative_share"] == 0.2
    assert value["correct_loss_rate"] == 0.25
    assert value["flips"] == 0.3
    assert value["wrong_churn"] == 0.2
    assert value["mean_score_delta"] == pytest.approx(0.1)
    assert value["mcnemar_p"] == pytest.approx(1.0)
    assert value["relative_nfr"] == pytest.approx(0.1 / (0.4 * 0.5))
    assert value["coverage"] == 1.0
    assert value["margin_flip_auroc"] is None
    assert value["near_tie_share"] is None
    assert metrics["correct_loss_rate"].n == 4
    assert metrics["negative_share"].n == 5


def test_mcnemar_equals_statsmodels():
    base, variant = random_runs(n=300)
    b, v = base.correct, variant.correct
    table = [[np.sum(b & v), np.sum(b & ~v)], [np.sum(~b & v), np.sum(~b & ~v)]]
    ours = stability_metrics(pair(base, variant))["mcnemar_p"]
    assert ours.value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert ours.n == table[0][1] + table[1][0]


def test_kappas_equal_sklearn():
    base, variant = random_runs()
    metrics = stability_metrics(pair(base, variant))
    for name, a, b in (
        ("error_consistency", base.correct, variant.correct),
        ("answer_kappa", base.answer.astype(str), variant.answer.astype(str)),
    ):
        metric = metrics[name]
        assert metric.value == pytest.approx(cohen_kappa_score(a, b))
        assert metric.low < metric.value < metric.high


def test_kappas_are_null_where_undefined():
    perfect = run("AAAA", "AAAA")
    metrics = stability_metrics(pair(perfect, perfect))
    assert metrics["error_consistency"].value is None
    assert metrics["answer_kappa"].value is None
    ids = [f"q{i}" for i in range(60)]
    free = Outcomes.from_columns(ids, answer=ids, correct=[True, False] * 30)
    assert stability_metrics(pair(free, free))["answer_kappa"].value is None
    lists = Outcomes.from_columns(["q1", "q2"], answer=[[1], [2]], correct=[True, False])
    assert stability_metrics(pair(lists, lists))["answer_kappa"].value is None


def test_margin_auroc_equals_sklearn_and_delong():
    base, variant = random_runs(per_image=1)
    pairs = pair(base, variant)
    metric = stability_metrics(pairs)["margin_flip_auroc"]
    score, changed = -base.margin, pairs.changed
    assert metric.value == pytest.approx(roc_auc_score(changed, score))
    wins = (score[changed][:, None] > score[~changed][None, :]).astype(float)
    error = np.sqrt(
        wins.mean(1).var(ddof=1) / changed.sum() + wins.mean(0).var(ddof=1) / (~changed).sum()
    )
    logit = np.log(metric.value / (1 - metric.value))
    half = stats.norm.ppf(0.975) * error / (metric.value * (1 - metric.value))
    expected = 1 / (1 + np.exp(-np.array([logit - half, logit + half])))
    assert (metric.low, metric.high) == pytest.approx(tuple(expected), abs=0.002)


def test_auroc_of_few_changes_claims_little():
    """Its interval holds the truth even if three of sixty rows carry most of the error."""
    rng = np.random.default_rng(0)
    three = np.arange(60) < 3
    found = [auroc("auroc", rng.normal(size=60), three, np.arange(60)) for _ in range(400)]
    known = [metric for metric in found if metric.low is not None]
    assert len(known) > 380
    assert np.mean([metric.low <= 0.5 <= metric.high for metric in known]) > 0.93
    score, one = rng.normal(size=60), np.arange(60) < 1
    assert auroc("auroc", score, one, np.arange(60)).low is None
    assert auroc("auroc", score, three, np.repeat(np.arange(20), 3)).low is None


def test_margin_auroc_gives_ties_half_a_win():
    base = run("AAAA", "AAAA", margin=[1.0, 1.0, 2.0, np.nan])
    metric = stability_metrics(pair(base, run("BAAA", "AAAA")))["margin_flip_auroc"]
    assert (metric.value, metric.n) == (0.75, 3)


def test_near_ties_are_counted_among_known_margins():
    base = run("AAAA", "AAAA", margin=[0.1, 0.125, 0.2, np.nan])
    metric = stability_metrics(pair(base, base))["near_tie_share"]
    assert (metric.value, metric.n) == (pytest.approx(2 / 3), 3)


def test_near_ties_and_flips_are_held_against_each_other():
    base = run("AAAAAA", "AAAAAA", margin=[0.1, 0.1, 0.1, 2.0, 2.0, np.nan])
    metrics = stability_metrics(pair(base, run("BBABAB", "AAAAAA")))
    # Near ties: 0, 1, 2; changed with a known margin: 0, 1, 3.
    share, divergence = metrics["near_tie_flip_share"], metrics["near_tie_divergence"]
    assert (share.value, share.n) == (pytest.approx(2 / 3), 3)
    assert (divergence.value, divergence.n) == (pytest.approx(2 / 3), 3)
    few = run("AAAA", "AAAA", margin=[0.1, 0.1, 0.1, 2.0])
    metrics = stability_metrics(pair(few, run("BAAB", "AAAA")))
    assert metrics["near_tie_flip_share"].value == 0.5
    assert metrics["near_tie_divergence"].value == pytest.approx(1 / 3)


def test_every_outcome_has_its_own_excess():
    gold = "AAAAAAAA"
    base = run("AAAABBBB", gold)
    # Lost: 0, 1; repaired: 4; churn: 5, 6; unreadable: 7.
    status = ["ok"] * 7 + ["invalid"]
    variant = run("BBAAACC?", gold, status=status, text=list("BBAAACC?"))
    still = excess_metrics(pair(base, variant), [pair(base, base)])
    assert {name: metric.value for name, metric in still.items()} == pytest.approx({
        "excess_divergence": 6 / 8,
        "excess_correct_loss": 2 / 4,
        "excess_negative_flip": 2 / 8,
        "excess_positive_flip": 1 / 8,
        "excess_flips": 3 / 8,
        "excess_wrong_churn": 3 / 8,
        "excess_invalid": 1 / 8,
    })  # fmt: skip
    same = excess_metrics(pair(base, variant), [pair(base, variant)])
    assert all(metric.value == 0 for metric in same.values())


def test_missing_and_error_pairs_leave_the_rates_but_not_the_coverage():
    base = run("AAAA", "AAAA")
    variant = run("AABB", "AAAA", status=["ok", "ok", "ok", "error"])
    metrics = stability_metrics(pair(base, variant))
    assert metrics["divergence_ratio"].value == 1 / 3
    assert (metrics["coverage"].value, metrics["coverage"].n) == (0.75, 4)


def test_no_pairs_at_all_give_nulls_not_errors():
    base, none = run("AA", "AA"), Outcomes.from_columns([], answer=[], correct=[])
    for pairs in (pair(base, none), pair(none, none)):
        metrics = stability_metrics(pairs)
        assert all(m.value is None for n, m in metrics.items() if n != "coverage")
    assert stability_metrics(pair(base, none))["coverage"].value == 0.0


def test_unknown_scores_leave_only_the_score_delta():
    base = run("AAA", "AAA", score=[1.0, np.nan, 0.6])
    metric = stability_metrics(pair(base, run("AAA", "AAA", score=[0.4, 1.0, 0.6])))[
        "mean_score_delta"
    ]
    assert (metric.value, metric.n) == (pytest.approx(-0.3), 2)


def test_clustered_questions_get_the_clustered_methods():
    metrics = stability_metrics(pair(*random_runs()))
    assert metrics["divergence_ratio"].method == "korn-graubard"
    assert metrics["accuracy_delta"].method == "cluster-t"
    plain = stability_metrics(pair(*random_runs(per_image=1)))
    assert plain["divergence_ratio"].method == "wilson"
    assert plain["accuracy_delta"].method == "newcombe-10"


def test_noise_floor_pools_counts_but_not_sample_size():
    base, again = random_runs(n=200, per_image=1, change=0.1)
    once = pair(base, again)
    floor = noise_floor([once, once, once])
    single = stability_metrics(once)
    assert "mcnemar_p" not in floor
    n_changed = int(once.changed.sum())
    for name in ("divergence_ratio", "correct_loss_rate", "accuracy_delta", "negative_share"):
        assert floor[name].value == pytest.approx(single[name].value)
        assert floor[name].n == 3 * single[name].n
    exact = clopper_pearson(n_changed, 200)
    assert floor["divergence_ratio"].high == pytest.approx(exact.high, abs=0.002)


def test_clean_repeats_do_not_pass_for_new_instances():
    base = run("A" * 100, "A" * 100)
    floor = noise_floor([pair(base, base)] * 5)
    assert floor["divergence_ratio"].high == pytest.approx(clopper_pearson(0, 100).high)
    with pytest.raises(ValueError, match="at least one repeat"):
        noise_floor([])


def test_excess_is_paired_with_each_instances_own_noise():
    gold = "AAAAAA"
    base = run("AAAABB", gold)
    variant = pair(base, run("BAABBC", gold))
    floor = [pair(base, run("BAAABB", gold)), pair(base, run("AAAACB", gold))]
    # changed: 1 0 0 1 0 1; floor mean: .5 0 0 0 .5 0
    excess = excess_per_instance(variant, floor)
    assert excess.value.tolist() == [0.5, 0, 0, 1.0, -0.5, 1.0]
    found = excess_metrics(variant, floor)
    metric = found["excess_divergence"]
    assert (metric.value, metric.n) == (pytest.approx(2 / 6), 6)
    assert metric.low < metric.value < metric.high
    loss = found["excess_correct_loss"]
    assert (loss.value, loss.n) == (pytest.approx((0.5 + 0 + 0 + 1) / 4), 4)


def test_excess_uses_the_repeats_an_instance_has():
    base = run("AAA", "AAA")
    partial = run("BA", "AA")
    floor = [pair(base, partial), pair(base, run("AAB", "AAA", status=["ok", "error", "ok"]))]
    excess = excess_per_instance(pair(base, run("BBB", "AAA")), floor)
    assert excess.value.tolist() == [0.5, 1.0, 0.0]
    only_first = excess_per_instance(pair(base, run("BBB", "AAA")), floor[:1])
    assert only_first.instance_id.tolist() == ["q0000", "q0001"]
    with pytest.raises(ValueError, match="at least one repeat"):
        excess_per_instance(pair(base, base), [])
    with pytest.raises(ValueError, match="unknown outcome"):
        excess_per_instance(pair(base, base), floor, outcome="luck")


def test_no_excess_is_zero_but_not_known_exactly():
    base = run("A" * 50, "A" * 50)
    metric = excess_metrics(pair(base, base), [pair(base, base)])["excess_divergence"]
    assert metric.value == 0.0
    assert metric.high == pytest.approx(clopper_pearson(0, 50).high)


def test_amplification_pairs_on_the_instance():
    gold = "AAAA"
    base = run("AAAA", gold)
    still = [pair(base, base)]
    clean = excess_per_instance(pair(base, run("BAAA", gold)), still)
    noisy = Outcomes.from_columns(
        ["q0003", "q0001", "q0002"], answer=["B", "B", "A"], correct=[False, False, True]
    )
    perturbed = excess_per_instance(pair(base, noisy), still)
    metric = perturbation_amplification(amplification_per_instance(clean, perturbed))
    assert (metric.value, metric.n) == (pytest.approx(2 / 3), 3)
    assert -2 <= metric.low <= metric.high <= 2


def test_accuracy_did_by_hand():
    gold = "AAAA"
    clean = pair(run("AAAB", gold), run("AABB", gold))
    perturbed = pair(run("AABB", gold), run("BBBB", gold))
    assert accuracy_did(clean, perturbed).value == pytest.approx(-0.5 - -0.25)
    assert accuracy_did(clean, clean).value == 0.0


def test_self_consistency_counts_kept_answers():
    clean = run("AAAB", "AAAA", input_hash=["a", "b", "c", "d"])
    noisy = run("AABB", "AAAA", input_hash=["e", "f", "g", "h"])
    metric = self_consistency(pair(clean, noisy, same_input=False))
    assert (metric.value, metric.n) == (0.75, 4)


def test_compression_specific_failures_need_both_right_when_clean():
    gold = "AAAAA"
    clean = pair(run("AAAAB", gold), run("AAABA", gold))
    perturbed = pair(run("AABAA", gold), run("ABBBB", gold))
    metric = compression_specific_failure_rate(clean, perturbed)
    assert (metric.value, metric.n) == (pytest.approx(1 / 3), 3)


def test_slices_are_reported_from_a_minimum_size():
    kinds = ["count"] * 40 + ["color"] * 35 + ["text"] * 5 + [None] * 20
    base = run("A" * 100, "A" * 100, slices={"kind": kinds})
    pairs = pair(base, run("B" * 10 + "A" * 90, "A" * 100))
    found = by_slice(pairs, "kind")
    assert list(found) == ["color", "count"]
    assert found["count"]["divergence_ratio"].value == 0.25
    assert found["color"]["divergence_ratio"].value == 0.0
    assert list(by_slice(pairs, "kind", min_n=1)) == ["color", "count", "text"]
    with pytest.raises(KeyError, match=r"no slice 'size'.*kind"):
        by_slice(pairs, "size")


def test_importing_the_package_loads_neither_numpy_nor_scipy():
    code = (
        "import sys, stabfw.metrics as m; early = {'numpy', 'scipy'} & set(sys.modules);"
        "m.stability_metrics;"
        "late = {'scipy', 'pandas', 'torch', 'statsmodels'} & set(sys.modules);"
        "print(early, late); sys.exit(bool(early or late))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_resolves():
    import stabfw.metrics as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
