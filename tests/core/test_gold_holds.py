"""Where a perturbation may change the right answer, nothing that needs gold answers is told."""

from __future__ import annotations

from collections.abc import Callable

from stabfw.experiment import Run, run
from stabfw.metrics import METRICS, NEED_GOLD
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec
from stabfw.tracking.columns import cell_columns, comparison_columns

Make = Callable[..., ExperimentSpec]


def ran(make_spec: Make, registry: Registry, typos: dict[str, object]) -> Run:
    spec = make_spec(
        stacks={"half": ["half"]}, compare="deployed", perturbations=[{"type": "typos", **typos}]
    )
    return run(spec, registry=registry)


def test_neither_accuracy_nor_loss_is_told(make_spec: Make, registry: Registry) -> None:
    done = ran(make_spec, registry, {})
    clean, typos = done.results.comparisons
    assert (clean.label_preserved, typos.label_preserved) == (True, False)
    assert set(clean.metrics) >= set(METRICS)
    for told in (typos.metrics, typos.floor):
        assert told["divergence_ratio"].value is not None
        assert not set(told) & NEED_GOLD
    assert "excess_divergence" in typos.metrics
    assert "perturbation_amplification" in typos.metrics
    assert "compression_specific_failure_rate" not in typos.metrics
    for levels in typos.slices.values():
        assert not any(set(metrics) & NEED_GOLD for metrics in levels.values())
    for cell in done.results.cells:
        perturbed = cell.condition.perturbation == "typos"
        assert (cell.accuracy.value is None) == perturbed
        assert cell.accuracy.n == 100
        assert ("acc" in cell_columns(cell)) != perturbed
    published = comparison_columns(typos)
    assert not published.keys() & {"acc", "acc_d", "loss", "neg", "pos", "n_ci", "n_cc"}
    assert published["n_changed"] == typos.counts.n_changed > 0
    assert comparison_columns(clean).keys() >= {"acc_d", "loss", "n_ci"}


def test_users_may_vouch_for_their_questions(make_spec: Make, registry: Registry) -> None:
    before = ran(make_spec, registry, {})
    done = ran(make_spec, registry, {"gold_holds": True})
    # The same cells under the same names: only what is told of them differs.
    assert done.computed == 0
    assert [c.condition for c in done.results.cells] == [c.condition for c in before.results.cells]
    typos = done.results.comparisons[1]
    assert typos.label_preserved
    assert typos.metrics["correct_loss_rate"].value is not None
    assert all(cell.accuracy.value is not None for cell in done.results.cells)
    # And back again.
    assert not ran(make_spec, registry, {}).results.comparisons[1].label_preserved
