"""What is read out of a judge's reply, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.components import read_ratings, read_score, read_yes_no


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("0.5", 0.5),
        ("0", 0.0),
        ("1", 1.0),
        ("1.0", 1.0),
        ("1.", 1.0),
        ("0.5/1", 0.5),
        ("0.5 / 1.0", 0.5),
        ("1/1", 1.0),
        ("**0.7**", 0.7),
        ("Score: 0.7", 0.7),
        ("The correctness score is 0.3.", 0.3),
        ("Correctness: 1", 1.0),
        ("0.5, because one of two is named.", 0.5),
        ("0.5 The answer names 1 of 2 parts.", 0.5),
        ("1 (everything is right)", 1.0),
        ("0.4\nReason: 2 of 5 parts.", 0.4),
        ("<think>Is it 0.9? No.</think>0.2", 0.2),
        ("1. It names both parts.\n2. It is short.\nScore: 0.5", 0.5),
        # None of these names one score from 0 to 1.
        ("", None),
        ("correct", None),
        ("not correct", None),
        ("8", None),
        ("1.5", None),
        ("0.5/10", None),
        ("5/10", None),
        ("50%", None),
        ("-0.5", None),
        ("Score: -0.5", None),
        ("0.5 or 0.6", None),
        ("0.5-0.6", None),
        ("0.5 to 0.6", None),
        ("0.0, 0.1, 0.2", None),
        ("1 of 2 parts is right", None),
        ("1. It names both parts.", None),
        ("1 part is missing", None),
        ("0,5", None),
        ("0.5 it seems, but the score is 0.7", None),
        ("<think>0.9 would be fair", None),
    ],
)
def test_score(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "ratings"),
    [
        ("7 8", (7, 8)),
        ("Score: 7 8", (7, 8)),
        ("Scores: 7, 8", (7, 8)),
        ("7.5 10\nThe first one is vague.", (7.5, 10)),
        ("7/10 8/10", (7, 8)),
        ("7 and 8.", (7, 8)),
        ("Answer 1: 7\nAnswer 2: 8", (7, 8)),
        ("Assistant 2: 8/10, assistant 1: 7/10", (7, 8)),
        ("<think>9 9</think>\n7 8", (7, 8)),
        ("", None),
        ("7", None),
        ("7 8 9", None),
        ("7 11", None),
        ("0 5", None),
        ("7/8", None),
        ("7-8", None),
        ("The first gets 7, the second 8", None),
        ("Answer 1: 7, Answer 2: 8, or rather Answer 2: 9", None),
        ("Answer 1: 7-8, Answer 2: 8", None),
        ("7% 8%", None),
    ],
)
def test_ratings(reply: str, ratings: tuple[float, float] | None) -> None:
    assert read_ratings(reply) == ratings


@pytest.mark.parametrize(
    ("reply", "same"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**", False),
        ("No, they are not correct in the same way; yes or no is hard", False),
        ("Answer: no", False),
        ("Both name a cat. The answer is yes.", True),
        ("yes\nno more to say", True),
        ("<think>no</think> yes", True),
        ("", None),
        ("correct", None),
        ("not correct", None),
        ("not equivalent", None),
        ("Notice: they differ", None),
        ("No idea", None),
        ("yes or no", None),
        ("Yes/no", None),
        ("Yes and no.", None),
        ("yes, but the answer is: no", None),
        ("Answer no. 2 is longer", None),
        ("I would not say yes", None),
    ],
)
def test_yes_no(reply: str, same: bool | None) -> None:
    assert read_yes_no(reply) is same


@given(st.text(max_size=200))
def test_nothing_raises_and_what_is_read_is_in_range(reply: str) -> None:
    score, ratings = read_score(reply), read_ratings(reply)
    assert score is None or 0 <= score <= 1
    assert ratings is None or all(1 <= rating <= 10 for rating in ratings)
    assert read_yes_no(reply) in (True, False, None)


@given(st.integers(0, 10), st.integers(1, 10), st.integers(1, 10))
def test_what_was_asked_for_is_read(tenth: int, first: int, second: int) -> None:
    assert read_score(f"{tenth / 10}") == tenth / 10
    assert read_ratings(f"{first} {second}") == (first, second)


def test_long_replies_take_no_time() -> None:
    for hostile in ("score: " * 20000, "1 " * 20000, "answer 1: 7 " * 10000, " " * 50000 + "1"):
        read_score(hostile), read_ratings(hostile), read_yes_no(hostile)
