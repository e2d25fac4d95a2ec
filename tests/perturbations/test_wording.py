"""Questions are put otherwise, and say the same."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.components import AnswerKind, Image, Instance
from stabfw_perturbations.typos import Typos, TyposConfig
from stabfw_perturbations.wording import Paraphrase, ParaphraseConfig, templates
from stabfw_perturbations.wording.methods import change_case, change_marks, change_spaces

seeds = st.integers(0, 2**32 - 1)
texts = st.text(alphabet=st.sampled_from("abXY.,?! 09<>\n"))
FIXED = "A. Red, or so?\n<image> 3.5 2nd"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(texts, seeds, st.sampled_from(["lower", "upper", "title", "mixed"]))
def test_case_changes_case_alone(text: str, seed: int, style: str) -> None:
    assert change_case(text, style, 1, rng(seed)).lower() == text.lower()


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("lower", "which is biggest, the circle?"),
        ("upper", "WHICH IS BIGGEST, THE CIRCLE?"),
        ("title", "Which Is Biggest, The Circle?"),
    ],
)
def test_case_styles(style: str, expected: str) -> None:
    assert change_case("Which is BIGGEST, the Circle?", style, 1, rng()) == expected


def test_mixed_case_mixes() -> None:
    found = {change_case("triangle", "mixed", 1, rng(seed)) for seed in range(20)}
    assert len(found) > 10


def test_marks_are_dropped_and_repeated() -> None:
    text = "Well, is 3.5 more? e.g. so!"
    assert change_marks(text, "drop", 1, rng()) == "Well is 3.5 more e.g so"
    assert change_marks(text, "repeat", 1, rng()) == "Well,,, is 3.5 more??? e.g... so!!!"


def test_gaps_get_wider_and_nothing_else() -> None:
    text = "is there a red circle?\nor not " * 20
    changed = change_spaces(text, 1, rng())
    assert changed.split() == text.split()
    assert set(re.findall(" +", changed.rstrip())) == {"  ", "   "}
    assert changed.count("\n") == text.count("\n")


def test_options_tokens_and_numbers_stay() -> None:
    first = FIXED.splitlines()[0]
    assert change_case(FIXED, "upper", 1, rng()) == FIXED
    assert change_marks(FIXED, "drop", 1, rng()) == FIXED
    assert change_spaces(FIXED, 1, rng()).startswith(first + "\n")


@given(texts, seeds)
def test_rate_zero_is_identity(text: str, seed: int) -> None:
    assert change_case(text, "mixed", 0, rng(seed)) == text
    assert change_marks(text, "drop", 0, rng(seed)) == text
    assert change_spaces(text, 0, rng(seed)) == text


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_the_share_that_is_changed_is_the_rate(rate: float) -> None:
    text = "aa, " * 4000
    assert change_case(text, "upper", rate, rng()).count("AA") / 4000 == pytest.approx(
        rate, abs=0.03
    )
    kept = change_marks(text, "drop", rate, rng()).count(",") / 4000
    assert kept == pytest.approx(1 - rate, abs=0.03)
    wide = len(re.findall("  +", change_spaces(text, rate, rng()))) / 4000
    assert wide == pytest.approx(rate, abs=0.03)


def asked(images: int = 1) -> Instance:
    pictures = (Image.from_pixels(np.zeros((2, 2, 3), np.uint8)),) * images
    return Instance.create(pictures, "Is {question} red?", native_id=0)


def test_every_template_holds_the_question_once_as_it_is() -> None:
    assert len(set(templates().values())) == len(templates()) >= 5
    for name, text in templates().items():
        assert text.count("{question}") == 1
        put = Paraphrase(ParaphraseConfig(template=name)).perturb(asked(), rng()).question
        assert put == text.replace("{question}", "Is {question} red?")
        assert put != asked().question


def test_all_templates_are_drawn() -> None:
    paraphrase = Paraphrase(ParaphraseConfig())
    put = {paraphrase.perturb(asked(), rng(seed)).question for seed in range(200)}
    assert len(put) == len(templates())


def test_a_question_without_picture_is_not_said_to_have_one() -> None:
    assert Paraphrase(ParaphraseConfig()).perturb(asked(0), rng()) == asked(0)


def test_an_unknown_template_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no template 'x'; there are question, look"):
        ParaphraseConfig(template="x")


def test_the_templates_enter_the_key() -> None:
    assert Paraphrase(ParaphraseConfig()).fingerprint().keys() == {"version", "sha256"}


def test_typos_may_change_what_is_asked_for() -> None:
    assert not any(Typos(TyposConfig()).preserves_label(kind) for kind in AnswerKind)
    assert not Typos(TyposConfig()).gold_holds(AnswerKind.SHORT)
    assert Typos(TyposConfig(gold_holds=True)).gold_holds(AnswerKind.SHORT)
    assert Typos(TyposConfig(rate=0)).gold_holds(AnswerKind.SHORT)
