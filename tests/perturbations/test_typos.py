"""Typos hit words and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw_perturbations.typos.slips import misspell

seeds = st.integers(0, 2**32 - 1)


def typo(text: str, rate: float, seed: int = 0) -> str:
    return misspell(text, rate, np.random.default_rng(seed))


@given(st.text(), seeds)
def test_rate_zero_is_identity(text: str, seed: int) -> None:
    assert typo(text, 0, seed) == text


@given(st.text(alphabet=st.sampled_from("abXYZ019 .,?\n")), seeds)
def test_digits_and_spacing_stay(text: str, seed: int) -> None:
    changed = typo(text, 1, seed)
    assert re.findall(r"\d|\s", changed) == re.findall(r"\d|\s", text)


@given(st.lists(st.sampled_from(["circle", "Triangle", "how", "aab", "zz"])), seeds)
def test_rate_one_changes_every_word_and_adds_none(words: list[str], seed: int) -> None:
    changed = typo(" ".join(words), 1, seed).split(" ") if words else []
    assert len(changed) == len(words)
    assert all(old != new for old, new in zip(words, changed, strict=True))
    assert all(abs(len(old) - len(new)) <= 1 for old, new in zip(words, changed, strict=True))


@pytest.mark.parametrize(
    "text",
    ["<image>", "<|im_start|>", "[INST]", "12 a 4K 2nd x=3", "I", "A. circle\nB. red square"],
)
def test_protected_text_stays(text: str) -> None:
    assert all(typo(text, 1, seed) == text for seed in range(20))


def test_all_four_kinds_of_slip_occur() -> None:
    slips = {typo("word", 1, seed) for seed in range(300)}
    assert {"wrod", "wor", "worrd", "wprd"} <= slips


@given(seeds)
def test_a_higher_rate_changes_more_of_the_same_words(seed: int) -> None:
    words = ["triangle", "circle", "rectangle", "picture"] * 5
    low, high = (typo(" ".join(words), rate, seed).split(" ") for rate in (0.3, 0.7))
    pairs = list(zip(words, low, high, strict=True))
    assert all(a == b for word, a, b in pairs if a != word)
    assert sum(b != word for word, _, b in pairs) >= sum(a != word for word, a, _ in pairs)


def test_the_share_of_changed_words_is_the_rate() -> None:
    words = ["triangle"] * 4000
    changed = typo(" ".join(words), 0.25).split(" ")
    assert sum(word != "triangle" for word in changed) / 4000 == pytest.approx(0.25, abs=0.03)


def test_case_stays_with_neighbouring_keys() -> None:
    capitals = [typo("WORD", 1, seed) for seed in range(50)]
    assert all(word.isupper() for word in capitals)
