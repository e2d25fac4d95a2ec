"""What must hold for log-probabilities of exclusive options."""

from __future__ import annotations

from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.components.likelihood import among, either

LOGPROBS = st.floats(-2000, 0)
OPTIONS = st.dictionaries(st.sampled_from("ABCDE"), LOGPROBS, min_size=1)


@given(OPTIONS)
def test_shares_add_up_and_keep_their_order(logprobs: dict[str, float]) -> None:
    shares, mass = among(logprobs)
    assert sum(map(exp, shares.values())) == pytest.approx(1)
    assert max(logprobs.values()) <= mass <= max(logprobs.values()) + log(len(logprobs)) + 1e-9
    assert {i: share + mass for i, share in shares.items()} == pytest.approx(logprobs)
    assert shares[max(logprobs, key=lambda i: logprobs[i])] == max(shares.values())


@given(OPTIONS, st.floats(-500, 500))
def test_shares_do_not_depend_on_the_rest(logprobs: dict[str, float], shift: float) -> None:
    shifted, _ = among({i: value + shift for i, value in logprobs.items()})
    assert shifted == pytest.approx(among(logprobs)[0], abs=1e-9)


@given(st.lists(LOGPROBS), st.lists(LOGPROBS))
def test_either_of_all_is_either_of_the_parts(one: list[float], other: list[float]) -> None:
    assert either([either(one), either(other)]) == pytest.approx(either(one + other))


def test_nothing_is_impossible() -> None:
    assert either([]) == either([-inf]) == -inf
    assert either([-inf, -1]) == -1
    assert among({"yes": 0.0, "no": -inf}) == ({"yes": 0.0, "no": -inf}, 0.0)
