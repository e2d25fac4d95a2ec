"""The count table: a partition, and rates that follow from it."""

from __future__ import annotations

from dataclasses import replace

from stabfw.metrics import Counts, Outcomes, pair, stability_metrics


def example():
    ids = [f"q{i}" for i in range(11)]
    base = Outcomes.from_columns(
        ids,
        answer=["A", "A", "A", "A", None, "A", "A", "A", "A", "A", "A"],
        correct=[1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1],
        status=["ok"] * 4 + ["invalid"] + ["ok"] * 3 + ["ok", "error", "ok"],
    )
    variant = Outcomes.from_columns(
        ids,
        answer=["A", "B", "C", "B", "A", "A", "B", "A", "A", "A", "A"],
        correct=[1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0],
        status=["ok"] * 7 + ["missing", "error", "ok", "invalid"],
    )
    return pair(base, variant)


def test_every_cell_of_the_table():
    assert Counts.of(example()) == Counts(
        n_cc_same=1,
        n_cc_diff=1,
        n_ci=2,
        n_ic=1,
        n_ii_same=1,
        n_ii_diff=2,
        n_missing_base=1,
        n_missing_variant_right=1,
        n_missing_variant_wrong=1,
        n_invalid_base=1,
        n_invalid_variant=1,
        n_error_base=1,
        n_error_variant=1,
    )


def test_rates_by_hand():
    counts = Counts.of(example())
    assert (counts.n, counts.n_missing, counts.n_planned) == (8, 3, 11)
    assert counts.accuracy_base == 4 / 8
    assert counts.accuracy_variant == 3 / 8
    assert counts.accuracy_delta == -1 / 8
    assert counts.divergence_ratio == 6 / 8
    assert counts.negative_flip_rate == 2 / 8
    assert counts.positive_flip_rate == 1 / 8
    assert counts.negative_share == 2 / 6
    assert counts.correct_loss_rate == 2 / 4
    assert counts.worst_case_loss_rate == 4 / 6
    assert counts.flips == 3 / 8
    assert counts.wrong_churn == 2 / 8
    assert counts.invalid_rate_base == 1 / 8
    assert counts.coverage == 8 / 11


def test_metrics_and_counts_agree():
    pairs = example()
    counts, metrics = Counts.of(pairs), stability_metrics(pairs)
    shared = [name for name in metrics if hasattr(counts, name)]
    assert len(shared) == 13
    assert {n: metrics[n].value for n in shared} == {n: getattr(counts, n) for n in shared}


def test_without_pairs_every_rate_is_none():
    empty = Counts()
    assert empty.divergence_ratio is None
    assert empty.correct_loss_rate is None
    assert empty.coverage is None
    assert replace(empty, n_missing_base=3).coverage == 0.0


def test_counts_add_field_by_field():
    assert Counts(n_ci=1, n_error_base=2) + Counts(n_ci=4) == Counts(n_ci=5, n_error_base=2)
