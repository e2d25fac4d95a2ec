"""A margin from which on answers hold: fitted on one part, checked on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stabfw.metrics import (
    FORESIGHT,
    ForesightRule,
    Outcomes,
    Pairs,
    clopper_pearson,
    foresee,
    korn_graubard,
    pair,
    wilson,
)
from stabfw.metrics.foresight import candidates, parts
from statsmodels.stats.proportion import proportion_confint

RULE = ForesightRule()
EXAMPLES = settings(max_examples=60)


def compared(margin, changed, each=1, *, other=None, order=None, right=None, status=None) -> Pairs:
    """A baseline and a variant with these margins, of which some answers changed."""
    n = len(margin)
    order = np.arange(n) if order is None else order
    right = np.ones(n, dtype=bool) if right is None else np.asarray(right)
    changed = np.asarray(changed, dtype=bool)

    def side(answer, correct, margin, status=None):
        return Outcomes.from_columns(
            [f"q{i:05d}" for i in order],
            answer=np.asarray(answer)[order],
            correct=np.asarray(correct)[order],
            margin=np.asarray(margin, dtype=float)[order],
            cluster=[f"image {i // each}" for i in order],
            status=None if status is None else np.asarray(status)[order],
        )

    base = side(np.zeros(n), right, margin if other is None else other)
    return pair(base, side(changed.astype(float), right & ~changed, margin, status))


def drawn(seed: int, n: int, each: int = 1, steepness: float = 1.0) -> Pairs:
    """Answers that change the more easily the smaller their margin is; margins have ties."""
    rng = np.random.default_rng(seed)
    margin = np.round(rng.exponential(2.0, n), 1)
    return compared(margin, rng.random(n) < 0.4 * np.exp(-steepness * margin), each)


def test_the_threshold_is_the_last_one_in_the_sequence_whose_exact_bound_keeps_to_the_limit():
    pairs = drawn(1, 3000, steepness=3.0)
    divided, margin, changed = parts(pairs, RULE), pairs.variant.margin, pairs.changed
    expected = None
    for threshold in candidates(divided, pairs.cluster_codes, RULE):
        covered = changed[divided.fit & (margin >= threshold)]
        bound = proportion_confint(covered.sum(), len(covered), 0.1, method="beta")[1]
        if bound > 0.02:
            break
        expected = threshold, covered.mean(), bound, len(covered)
    assert expected is not None
    assert 0 < expected[0] < 2
    found = foresee(pairs, RULE)
    assert tuple(found) == FORESIGHT
    threshold, fitted = found["foresight_threshold"], found["foresight_risk_fit"]
    assert (threshold.value, threshold.n) == (expected[0], divided.fit.sum())
    assert (fitted.value, fitted.high, fitted.n) == pytest.approx(expected[1:])


def test_the_search_begins_where_one_answer_may_be_harmed():
    n = 4000
    pairs = compared(np.arange(n) / 100, np.zeros(n))
    divided = parts(pairs, RULE)
    for at_most, needed in ((0.02, 236), (0.01, 473)):
        rule = replace(RULE, at_most=at_most)
        tested = candidates(divided, pairs.cluster_codes, rule)
        assert tested == sorted(set(tested), reverse=True)
        assert tested[-1] == 0.0
        share = np.mean(divided.margin[divided.check] >= tested[0])
        assert needed <= share * divided.fit.sum() < needed + 1.1 * divided.fit.sum() / 50


def test_the_other_part_tells_what_it_is_worth():
    pairs = drawn(1, 3000, steepness=3.0)
    check, changed = parts(pairs, RULE).check, pairs.changed
    found = foresee(pairs, RULE)
    sure = check & (pairs.variant.margin >= found["foresight_threshold"].value)
    for name, hits, among in (
        ("coverage", sure, check),
        ("risk", sure & changed, sure),
        ("foreseen", check & changed & ~sure, check & changed),
    ):
        metric, bounds = found[f"foresight_{name}"], wilson(int(hits.sum()), int(among.sum()))
        assert (metric.value, metric.n) == (hits.sum() / among.sum(), among.sum())
        assert (metric.low, metric.high) == (bounds.low, bounds.high)
    assert found["foresight_foreseen"].value > 0.6


def test_questions_on_one_image_count_for_less():
    shared = drawn(2, 6000, 5, 3.0)
    found = foresee(shared, RULE)
    threshold = found["foresight_threshold"].value
    rows = parts(shared, RULE).fit & (shared.variant.margin >= threshold)
    bound = korn_graubard(shared.changed[rows], shared.cluster_codes[rows], 0.9, cautious=True).high
    assert found["foresight_risk_fit"].high == pytest.approx(bound)
    k, n = int(shared.changed[rows].sum()), int(rows.sum())
    assert bound > clopper_pearson(k, n, 0.9).high
    # Images are too few, however many questions there are on each.
    few = foresee(compared(np.ones(6000), np.zeros(6000), 40), RULE)
    assert few["foresight_threshold"].method == "none certified: too few answers to fit it on"


def test_without_a_threshold_nothing_is_said_to_be_foreseen():
    everywhere = foresee(compared(np.arange(2000), np.arange(2000) % 9 == 0), RULE)
    assert {metric.value for metric in everywhere.values()} == {None}
    why = everywhere["foresight_threshold"].method
    assert why.startswith("none certified: ")
    assert why.endswith("harmed")
    too_few = foresee(drawn(0, 300, steepness=9.0), RULE)["foresight_threshold"]
    assert (too_few.value, too_few.method) == (
        None,
        "none certified: too few answers to fit it on",
    )
    assert foresee(compared(np.full(50, np.nan), np.zeros(50)), RULE) == {}


def test_if_next_to_nothing_changes_every_answer_is_covered():
    found = foresee(compared(np.arange(1, 1001) / 10, np.zeros(1000)), RULE)
    assert found["foresight_threshold"].value == 0.0
    assert found["foresight_coverage"].value == 1.0
    assert found["foresight_foreseen"].value is None


def test_either_side_has_a_margin():
    rng = np.random.default_rng(0)
    telling, noise = rng.exponential(2.0, 4000), rng.exponential(2.0, 4000)
    changed = telling < 0.3
    variant = foresee(compared(telling, changed, other=noise), RULE)
    baseline = foresee(compared(noise, changed, other=telling), replace(RULE, margin="baseline"))
    assert variant == baseline
    assert variant["foresight_threshold"].value is not None
    blind = foresee(compared(noise, changed, other=telling), RULE)
    assert blind["foresight_threshold"].value is None


def test_harm_is_what_a_gate_counts():
    rng = np.random.default_rng(0)
    margin = rng.exponential(2.0, 4000)
    wrong = margin > 4
    pairs = compared(margin, wrong | (margin < 0.2), right=~wrong)
    # Sure answers change here, but none of them was right.
    assert foresee(pairs, RULE)["foresight_threshold"].value is None
    lost = foresee(pairs, replace(RULE, metric="correct_loss_rate"))
    among = parts(pairs, replace(RULE, metric="correct_loss_rate")).check
    assert lost["foresight_threshold"].value is not None
    assert lost["foresight_coverage"].n == among.sum() == (parts(pairs, RULE).check & ~wrong).sum()


def test_what_could_not_be_compared_counts_as_harmed():
    n = 2000
    status = np.where(np.arange(n) % 20 == 0, "missing", "ok")
    margin = np.where(status == "ok", 1.0, np.nan)
    pairs = compared(margin, np.zeros(n), other=np.ones(n), status=status)
    baseline = foresee(pairs, replace(RULE, margin="baseline"))["foresight_threshold"]
    assert baseline.value is None
    # What the variant did not answer has no margin of its own to be trusted by.
    assert foresee(pairs, RULE)["foresight_threshold"].value == 0.0


def test_a_rate_at_the_limit_is_rarely_certified():
    """The search as a whole errs in 5 % of the cases, whatever it looks at on its way."""
    rng = np.random.default_rng(0)
    trials, certified = 300, 0
    for _ in range(trials):
        pairs = compared(rng.exponential(2.0, 1200), rng.random(1200) < 0.0201)
        certified += foresee(pairs, RULE)["foresight_threshold"].value is not None
    assert certified / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


@given(st.integers(0, 999), st.integers(1, 3), st.sampled_from([0.0, 1.0, 3.0]))
@EXAMPLES
def test_order_does_not_matter(seed, each, steepness):
    rng = np.random.default_rng(seed)
    margin = np.round(rng.exponential(2.0, 1500), 1)
    changed = rng.random(1500) < 0.2 * np.exp(-steepness * margin)
    straight = compared(margin, changed, each)
    assert foresee(straight, RULE) == foresee(
        compared(margin, changed, each, order=rng.permutation(1500)), RULE
    )


@given(st.integers(0, 999), st.integers(1, 4), st.floats(0.2, 0.8), st.integers(0, 5))
@EXAMPLES
def test_parts_share_no_cluster_and_stay_what_they_are(seed, each, fit_share, own_seed):
    rule = ForesightRule(fit_share=fit_share, seed=own_seed)
    pairs = drawn(seed, 400, each)
    divided = parts(pairs, rule)
    assert (divided.fit ^ divided.check).all()
    assert not set(pairs.cluster[divided.fit]) & set(pairs.cluster[divided.check])
    assert abs(divided.fit.mean() - fit_share) < 4 * np.sqrt(each * 0.25 / 400)
    kept = np.random.default_rng(seed).random(400) < 0.5
    assert parts(pairs.select(kept), rule).fit.tolist() == divided.fit[kept].tolist()
    other = parts(pairs, replace(rule, seed=own_seed + 1)).fit
    assert other.tolist() != divided.fit.tolist()


@given(st.integers(0, 999), st.integers(1, 3))
@EXAMPLES
def test_what_is_tested_does_not_follow_from_what_the_fitting_part_shows(seed, each):
    """Nor does the threshold follow from the outcomes of the other part."""
    pairs = drawn(seed, 3000, each, 3.0)
    divided, codes = parts(pairs, RULE), pairs.cluster_codes
    elsewhere = np.where(divided.fit, np.random.default_rng(seed).random(3000), divided.margin)
    assert candidates(replace(divided, margin=elsewhere), codes, RULE) == candidates(
        divided, codes, RULE
    )
    n = len(pairs)
    flipped = np.where(divided.check, ~pairs.changed, pairs.changed)
    clusters = np.array([int(label.split()[1]) for label in pairs.cluster])
    assert (clusters == np.arange(n) // each).all()
    again = foresee(compared(pairs.variant.margin, flipped, each), RULE)
    found = foresee(pairs, RULE)
    for name in ("foresight_threshold", "foresight_risk_fit"):
        assert again[name] == found[name]


@given(
    st.integers(0, 999),
    st.integers(1, 3),
    st.sampled_from([0.02, 0.04, 0.05]),
    st.floats(1.0, 2.0),
    st.floats(0.0, 0.3),
)
@EXAMPLES
def test_what_is_certified_keeps_to_its_limit_and_laxer_limits_reach_further(
    seed, each, at_most, times, less
):
    pairs = drawn(seed, 3000, each, 2.0)
    strict = ForesightRule(at_most=at_most)
    lax = ForesightRule(at_most=at_most * times, confidence=0.95 - less)
    found, further = foresee(pairs, strict), foresee(pairs, lax)
    for rule, one in ((strict, found), (lax, further)):
        if one["foresight_threshold"].value is not None:
            bound = one["foresight_risk_fit"]
            assert bound.value <= bound.high <= rule.at_most
    divided, codes = parts(pairs, strict), pairs.cluster_codes
    # A sequence that begins with surer and fewer answers may end earlier.
    assume(candidates(divided, codes, strict) == candidates(divided, codes, lax))
    if found["foresight_threshold"].value is not None:
        assert further["foresight_threshold"].value <= found["foresight_threshold"].value
