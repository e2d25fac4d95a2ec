"""Change of the log-likelihood of given answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stabfw.metrics import MetricValue, loglik_delta

EACH, TOKEN = "answer_loglik_delta", "answer_loglik_delta_per_token"
EXAMPLES = settings(max_examples=60)
LOGPROB = st.floats(-20, 0, allow_nan=False)


@st.composite
def answers(draw: Any) -> tuple[list[list[float]], list[list[float]], list[str]]:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=20))
    sides = [[draw(st.lists(LOGPROB, min_size=k, max_size=k)) for k in sizes] for _ in range(2)]
    clusters = [f"c{draw(st.integers(0, 8))}" for _ in sizes]
    return sides[0], sides[1], clusters


def told(*parts: Any) -> dict[str, MetricValue]:
    return loglik_delta(*parts, resamples=60)


@EXAMPLES
@given(answers())
def test_answers_and_tokens_tell_of_one_sum(drawn: Any) -> None:
    before, after, _ = drawn
    found = told(*drawn)
    total = sum(map(sum, after)) - sum(map(sum, before))
    assert found[EACH].value * len(before) == pytest.approx(total, abs=1e-9)
    assert found[TOKEN].value * sum(map(len, before)) == pytest.approx(total, abs=1e-9)
    for metric in found.values():
        assert metric.n == len(before)
        assert metric.low is None or metric.low <= metric.value <= metric.high


@EXAMPLES
@given(answers())
def test_swapping_the_sides_changes_the_sign(drawn: Any) -> None:
    before, after, clusters = drawn
    there, back = told(*drawn), told(after, before, clusters)
    assert back[EACH].value == pytest.approx(-there[EACH].value, abs=1e-9)
    assert back[TOKEN].value == pytest.approx(-there[TOKEN].value, abs=1e-9)
    if there[EACH].low is not None:
        assert back[EACH].high == pytest.approx(-there[EACH].low, abs=1e-9)


@EXAMPLES
@given(answers(), st.randoms())
def test_order_does_not_matter(drawn: Any, random: Any) -> None:
    rows = list(zip(*drawn, strict=True))
    random.shuffle(rows)
    shuffled = told(*(list(column) for column in zip(*rows, strict=True)))
    ordered = told(*drawn)
    for name in (EACH, TOKEN):
        assert shuffled[name].value == pytest.approx(ordered[name].value, abs=1e-9)
    assert shuffled[EACH].low == pytest.approx(ordered[EACH].low, abs=1e-9)


@EXAMPLES
@given(answers())
def test_the_same_is_no_change(drawn: Any) -> None:
    before, _, clusters = drawn
    found = told(before, before, clusters)
    assert found[EACH].value == found[TOKEN].value == 0


def test_questions_about_one_picture_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    change = np.repeat(rng.normal(size=40), 5)
    before, after = [[-9.0]] * 200, [[-9.0 + value] for value in change]
    alone = told(before, after, range(200))[EACH]
    shared = told(before, after, np.repeat(np.arange(40), 5).tolist())[EACH]
    assert shared.high - shared.low > 1.8 * (alone.high - alone.low)


def test_what_one_side_holds_for_impossible_is_left_out() -> None:
    found = told([[-1.0], [-1.0], [-1.0]], [[-2.0], [-np.inf], [-1.0]], ["a", "b", "c"])
    assert (found[EACH].value, found[EACH].n) == (-0.5, 2)


def test_nothing_to_compare() -> None:
    assert {(m.value, m.low, m.n) for m in told([], [], []).values()} == {(None, None, 0)}


def test_answers_must_be_the_same_tokens() -> None:
    with pytest.raises(ValueError, match="other tokens after than before"):
        told([[-1.0, -1.0]], [[-1.0]], ["a"])
