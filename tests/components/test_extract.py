"""What is read out of texts: a table of cases, any text at all, and the time it takes."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Choice,
    extract_choice,
    extract_number,
    extract_text,
    extract_yes_no,
    normalised,
)

GROUPS = YAML(typ="safe").load(Path(__file__).with_name("extraction_cases.yaml").read_text())
SHOWN = tuple(map(Choice, ascii_uppercase, ("red", "blue", "dark red", "none of the above")))
READERS = {
    "choice": lambda text: extract_choice(text, SHOWN),
    "yes-no": extract_yes_no,
    "number": extract_number,
    "short": lambda text: extract_text(text, AnswerKind.SHORT),
    "free": lambda text: extract_text(text, AnswerKind.FREE),
}


def read(group: dict[str, Any], text: str) -> Answer:
    if group["kind"] != "choice":
        return READERS[group["kind"]](text)
    choices = tuple(map(Choice, ascii_uppercase, group["options"]))
    return extract_choice(text, choices, group.get("labels", ascii_uppercase))


CASES = [
    pytest.param(group, row[0], row[1], row[2] if len(row) > 2 else "ok", id=f"{number}-{row[0]!r}")
    for number, group in enumerate(GROUPS)
    for row in group["rows"]
]


def test_there_are_cases_of_every_kind_and_status() -> None:
    assert len(CASES) >= 200
    assert {group["kind"] for group in GROUPS} == set(READERS)
    assert all(group["from"] for group in GROUPS)
    statuses = {case.values[3] for case in CASES}
    assert statuses == {"ok", "invalid", "empty", "refusal"}
    texts = [(number, row[0]) for number, g in enumerate(GROUPS) for row in g["rows"]]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(("group", "text", "value", "status"), CASES)
def test_case(group: dict[str, Any], text: str, value: str | None, status: str) -> None:
    answer = read(group, text)
    assert (answer.value, answer.status.value) == (value, status)
    assert read(group, text) == answer


def test_labels_follow_the_order_shown() -> None:
    shuffled = (SHOWN[2], SHOWN[0], SHOWN[1])
    assert extract_choice("A", shuffled).value == SHOWN[2].id
    assert extract_choice("It is (B).", shuffled).value == SHOWN[0].id


PIECES = st.sampled_from(
    (
        *("A", "B", "b", "E", "I", "yes", "No", "not", "or", "and", "red", "dark red", "3", "-2.5"),
        *("the answer is", "Answer:", "答案：", "是", "不", "option", "(", ")", "[", ".", ",", ":"),
        *("\n", "<think>", "</think>", "<answer>", "\\boxed{", "}", "{", '{"answer":', '"', "**"),
        *("I cannot see the image", "therefore", "it is", "is correct", "e9", "/", "\x00", "🦊"),
    )
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map(" ".join), st.text("AaBb .,()\n:"))


@given(TEXTS)
@example("{}}")
@example('{"answer": null}')
@example('{"answer": ' + "1" * 5000 + "}")
@example('{"a": ' * 5000 + "1" + "}" * 5000)
def test_any_text_is_read_as_something_and_the_same_again(text: str) -> None:
    for name, reader in READERS.items():
        answer = reader(text)
        assert (answer.value is None) == (answer.status is not AnswerStatus.OK), name
        assert reader(text) == answer
        if not text.strip():
            assert answer.status is AnswerStatus.EMPTY


@given(TEXTS, st.permutations(SHOWN))
def test_value_is_an_option_whatever_the_order(text: str, shown: list[Choice]) -> None:
    answer = extract_choice(text, tuple(shown))
    assert answer.value is None or answer.value in {choice.id for choice in shown}


@given(st.lists(st.text(max_size=12), min_size=1, max_size=30), TEXTS)
def test_options_may_be_any_text(options: list[str], text: str) -> None:
    choices = tuple(Choice(f"#{number}", option) for number, option in enumerate(options))
    for place, label in enumerate(ascii_uppercase[: len(choices)]):
        assert extract_choice(label, choices).value == f"#{place}"
    extract_choice(text, choices)


@given(TEXTS)
@example("a. ..")
@example("a .\u3000")
@example("\u1fb3\u0301 \ufdfa")
def test_normalisers_are_idempotent(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6
    )
)
def test_equal_numbers_are_equal_answers(number: Decimal) -> None:
    value = extract_number(f"{number:f}").value
    assert value is not None
    assert Decimal(value) == number
    assert extract_number(value).value == value
    assert extract_number(f"{number:,f}").value == value
    assert extract_number(f"{number:+f}00").value == value


LENGTHS = (3_000, 30_000, 300_000)
HOSTILE = {
    "spaces": " ",
    "spaces then a word": " " * 5000 + "x",
    "lines": "\n",
    "open brackets": "(",
    "closed brackets": ")",
    "open braces": "{",
    "boxes": "\\boxed{",
    "latex": "\\text{",
    "tags": "<answer>",
    "thoughts": "<think>",
    "thought ends": "</think>",
    "letters": "a",
    "capital letters": "A ",
    "labels": "(A) ",
    "options": "A. red ",
    "digits": "1",
    "thousands": "1,111",
    "decimals": "1.",
    "cues": "answer is ",
    "bare cues": "answer ",
    "weak cues": "so it is ",
    "lines of labels": "A\n",
    "no": "no ",
    "yes or no": "yes or no ",
    "options in words": "dark red ",
    "refusals": "I cannot see the ",
    "marks": "*_`$",
    "wide letters": "\uff22 ",
    "Chinese": "答案是",
    "json": '{"a":',
    "json list": "[",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_length_only(name: str) -> None:
    piece = HOSTILE[name]
    for kind, reader in READERS.items():
        before = 0.0
        for length in LENGTHS:
            text = (piece * (length // len(piece) + 1))[:length]
            begin = time.process_time()
            # The end of a text decides whether a pattern goes back.
            reader(text + "!x")
            taken = time.process_time() - begin
            # Quadratic time would be a factor of 100; what is too short cannot be measured.
            limit = 30 * max(before, 0.002)
            assert taken < limit or not before, f"{kind}: {before:.4f} s, then {taken:.4f} s"
            before = taken
