"""Where free answers part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.metrics import first_divergence

WHERE, SHARE = "first_divergence_token", "common_prefix_share"
ANSWERS = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12)


def test_by_hand() -> None:
    before = [[1, 2, 3, 4], [1, 2], [1], [], [7]]
    after = [[1, 2, 9, 4], [1, 2, 3, 4], [1], [], [8]]
    values = first_divergence(before, after, list("abcde"))
    assert (values[WHERE].value, values[WHERE].n) == (2.0, 3)
    assert (values[SHARE].value, values[SHARE].n) == ((0.5 + 0.5 + 1 + 0) / 4, 4)


def test_equal_answers_never_part() -> None:
    values = first_divergence([[1, 2]] * 3, [[1, 2]] * 3, list("abc"))
    assert (values[WHERE].value, values[WHERE].n, values[SHARE].value) == (None, 0, 1.0)


def test_nothing_is_known_of_nothing() -> None:
    values = first_divergence([], [], [])
    assert (values[WHERE].value, values[SHARE].value) == (None, None)


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(rng.integers(0, 20, 30), 10)
    before = [[1] * 25] * 300
    after = [[1] * place + [2] * (25 - place) for place in places]
    clustered = first_divergence(before, after, np.repeat(range(30), 10).tolist())
    apart = first_divergence(before, after, list(range(300)))
    for name in (WHERE, SHARE):
        wide, narrow = clustered[name], apart[name]
        assert wide.value == narrow.value
        assert wide.low is not None
        assert wide.high is not None
        assert narrow.low is not None
        assert narrow.high is not None
        assert wide.high - wide.low > narrow.high - narrow.low
    assert clustered[WHERE].value == np.median(places)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_sides_and_order_change_nothing(answers: list[list[int]], random: object) -> None:
    before, after = answers, [list(reversed(answer)) for answer in answers]
    labels = list(range(len(answers)))
    one = first_divergence(before, after, labels, resamples=20)
    other = first_divergence(after, before, labels, resamples=20)
    for name in (WHERE, SHARE):
        assert one[name] == other[name]
        value = one[name].value
        if value is not None:
            assert one[name].low is None or one[name].low <= value <= (one[name].high or value)
    expected = [
        next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        for a, b in zip(before, after, strict=True)
        if a != b
    ]
    assert one[WHERE].value == (pytest.approx(np.median(expected)) if expected else None)
