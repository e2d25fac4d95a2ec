"""Scorers as pure functions, and the aggregates of benchmarks against numbers counted by hand."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.components import Answer, AnswerKind, AnswerStatus, Benchmark, Graded, Kind, Score
from stabfw.registry import Registry
from stabfw_benchmarks.scoring import (
    anls,
    as_number,
    contains_any,
    relaxed_equal,
    soft_accuracy,
    token_recall,
    vqa_normalised,
    words_normalised,
)

TEXT = st.text(alphabet=string.printable + "é½ａ（）。是", max_size=30)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


def graded(
    said: str | None,
    gold: str,
    group: str = "",
    score: float | None = None,
    **slices: str,
) -> Graded:
    """An answer that is right if it is the gold one; None is one that could not be read."""
    kind = AnswerKind.YES_NO if gold in ("yes", "no") else AnswerKind.SHORT
    status = AnswerStatus.INVALID if said is None else AnswerStatus.OK
    points = float(said == gold) if score is None else score
    answer = Answer(said, kind, status)
    return Graded(group, slices, kind, (gold,), answer, Score(points, said == gold))


def aggregate(registry: Registry, name: str, answers: Sequence[Graded]) -> Mapping[str, float]:
    cls = registry.load(Kind.BENCHMARK, name)
    made: Any = cls(cls.config_cls())
    assert isinstance(made, Benchmark)
    return {key: round(value, 6) for key, value in made.aggregate(answers).items()}


class TestAggregates:
    def test_pope(self, registry: Registry) -> None:
        # Of three that are there one is found, one missed and one not read; of two that are not
        # there one is seen.
        answers = [
            graded("yes", "yes", category="popular"),
            graded("no", "yes", category="popular"),
            graded(None, "yes", category="random"),
            graded("yes", "no", category="popular"),
            graded("no", "no", category="random"),
        ]
        found = aggregate(registry, "pope", answers)
        assert {name: value for name, value in found.items() if "." not in name} == {
            "accuracy": 0.4,
            "precision": 0.5,
            "recall": 0.333333,
            "f1": 0.4,
            "yes_ratio": 0.4,
        }
        assert (found["precision.popular"], found["recall.popular"]) == (0.5, 0.5)
        # Nobody said yes: no ratio may fail.
        assert (found["precision.random"], found["f1.random"]) == (0.0, 0.0)
        assert found["yes_ratio.popular"] == 0.666667

    def test_mme(self, registry: Registry) -> None:
        answers = [
            graded("yes", "yes", "a", category="code_reasoning"),
            graded("no", "no", "a", category="code_reasoning"),
            graded("yes", "yes", "b", category="code_reasoning"),
            graded("yes", "no", "b", category="code_reasoning"),
            graded("yes", "yes", "c", category="count"),
            graded("no", "no", "c", category="count"),
            graded(None, "yes", "d", category="OCR"),
            graded("no", "no", "d", category="OCR"),
        ]
        # 75 + 50; 100 + 100 and 50 + 0.
        assert aggregate(registry, "mme", answers) == {"perception": 250.0, "cognition": 125.0}

    def test_mmbench(self, registry: Registry) -> None:
        answers = [
            *(graded("A", "A", "1"), graded("A", "A", "1"), graded("A", "A", "1")),
            *(graded("B", "B", "2"), graded("C", "B", "2")),
            *(graded(None, "B", "3"), graded("B", "B", "3")),
            graded("D", "D", "4"),
        ]
        assert aggregate(registry, "mmbench", answers) == {"circular_accuracy": 0.5}

    def test_mmstar(self, registry: Registry) -> None:
        answers = [
            graded("A", "A", category="math", l2_category="geometry"),
            graded("B", "A", category="math", l2_category="geometry"),
            graded("B", "A", category="math", l2_category="geometry"),
            graded("B", "A", category="math", l2_category="geometry"),
            graded("A", "A", category="math", l2_category="statistics"),
            graded("A", "A", category="logic", l2_category="code"),
        ]
        # 1/4, 1 and 1: not 3/6.
        assert aggregate(registry, "mmstar", answers) == {
            "average": 0.75,
            "logic": 1.0,
            "math": 0.625,
        }

    def test_ocrbench(self, registry: Registry) -> None:
        answers = [
            graded("a", "a", question_type="Regular"),
            graded("b", "a", question_type="Regular"),
            graded("b", "a", question_type="Formula"),
            graded("b", "a", question_type="Formula"),
        ]
        assert aggregate(registry, "ocrbench", answers) == {
            "score_of_1000": 250.0,
            "Formula": 0.0,
            "Regular": 0.5,
        }

    @pytest.mark.parametrize("name", ["vqa-rad", "path-vqa", "slake"])
    def test_medical(self, name: str, registry: Registry) -> None:
        answers = [
            graded("yes", "yes", answer_type="closed"),
            graded(None, "no", answer_type="closed"),
            graded("left lung", "left lung", answer_type="open"),
            graded("lung", "left lung", answer_type="open", score=0.5),
            graded("heart", "left lung", answer_type="open"),
        ]
        assert aggregate(registry, name, answers) == {
            "closed_accuracy": 0.5,
            "open_accuracy": 0.333333,
            "open_recall": 0.5,
        }
        assert aggregate(registry, name, answers[:2]) == {"closed_accuracy": 0.5}

    def test_people(self, registry: Registry) -> None:
        answers = [
            graded("2", "2", answer_type="number"),
            graded("3", "2", answer_type="number", score=0.3),
            graded("x", "y", answer_type="other"),
        ]
        assert aggregate(registry, "vqav2", answers) == {
            "vqa_accuracy": 0.433333,
            "vqa_accuracy.number": 0.65,
            "vqa_accuracy.other": 0.0,
        }


class TestWords:
    @pytest.mark.parametrize(
        ("text", "folded"),
        [
            ("X-Ray", "x ray"),
            ("Left lung (upper).", "left lung"),
            ("（CT）扫描。", "扫描"),
            ("(a)", "a"),
            ("ＣＴ", "ct"),
            ("a_b", "a b"),
            ("...", ""),
        ],
    )
    def test_folding(self, text: str, folded: str) -> None:
        assert words_normalised(text) == folded

    @given(TEXT)
    def test_folding_twice_is_folding_once(self, text: str) -> None:
        assert words_normalised(words_normalised(text)) == words_normalised(text)

    @given(TEXT, TEXT)
    def test_recall_is_a_share_and_full_for_the_gold_answer(self, said: str, gold: str) -> None:
        assert 0 <= token_recall(said, gold) <= 1
        assert token_recall(gold, gold) == (1.0 if words_normalised(gold) else 0.0)
        assert token_recall(f"{said} {gold}", gold) >= token_recall(said, gold) - 1e-12

    def test_recall_counts_a_word_as_often_as_it_is_there(self) -> None:
        assert token_recall("left", "left and left") == pytest.approx(1 / 3)


class TestContaining:
    def test_any_gold_answer_counts_and_an_empty_one_does_not(self) -> None:
        assert contains_any("the centre", ["x", "centre"])
        assert not contains_any("the centre", ["", "x"])
        assert not contains_any("anything", [])

    @given(TEXT, st.lists(TEXT, max_size=4))
    def test_more_text_never_hurts(self, text: str, golds: list[str]) -> None:
        before = list(golds)
        assert contains_any(f"{text} {text}", golds) >= contains_any(text, golds)
        assert golds == before


class TestAnls:
    @pytest.mark.parametrize(
        ("answer", "golds", "score"),
        [
            ("Berlin", ["berlin"], 1.0),
            ("Berlim", ["Berlin", "Bonn"], 5 / 6),
            # Half of it is wrong: nothing.
            ("ab", ["ax"], 0.0),
            ("", ["x"], 0.0),
            ("x", [], 0.0),
        ],
    )
    def test_by_hand(self, answer: str, golds: list[str], score: float) -> None:
        assert anls(answer, golds) == pytest.approx(score)

    @given(TEXT, st.lists(TEXT, max_size=3))
    def test_bounds_and_order(self, answer: str, golds: list[str]) -> None:
        assert 0 <= anls(answer, golds) <= 1
        assert anls(answer, golds) == anls(answer, golds[::-1])
        assert anls(answer, [*golds, answer]) == 1


class TestNumbers:
    @pytest.mark.parametrize(
        ("said", "gold", "equal"),
        [
            ("104", "100", True),
            ("105", "100", True),
            ("105.1", "100", False),
            ("-5", "5", False),
            ("0", "0", True),
            ("0.001", "0", False),
            ("50%", "0.5", True),
            ("$1,200.00", "1200", True),
            ("Red.", "red", True),
            ("red", "3", False),
        ],
    )
    def test_tolerance(self, said: str, gold: str, equal: bool) -> None:
        assert relaxed_equal(said, gold) is equal

    @pytest.mark.parametrize("text", ["", "-", ".", "1.2.3", "12a", "nan", "inf", "1e5"])
    def test_no_number(self, text: str) -> None:
        assert as_number(text) is None

    @given(st.floats(-1e6, 1e6).map(lambda value: f"{value:.3f}"))
    def test_a_number_equals_itself(self, text: str) -> None:
        assert relaxed_equal(text, text)

    @given(TEXT, TEXT)
    def test_any_text_is_compared(self, said: str, gold: str) -> None:
        assert relaxed_equal(said, gold) in (True, False)


class TestSoftAccuracy:
    @pytest.mark.parametrize(
        ("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
    )
    def test_by_number_of_people(self, matches: int, score: float) -> None:
        people = ["yes"] * matches + ["no"] * (10 - matches)
        assert soft_accuracy("yes", people) == pytest.approx(score)
        assert people == ["yes"] * matches + ["no"] * (10 - matches)

    @pytest.mark.parametrize(
        ("text", "folded"),
        [
            ("The Dog.", "dog"),
            ("two", "2"),
            ("1,000", "1000"),
            ("3.5", "3.5"),
            ("dont know", "don't know"),
            ("it's", "it's"),
            ("black/white", "black white"),
            ("A", ""),
            ("", ""),
        ],
    )
    def test_folding(self, text: str, folded: str) -> None:
        assert vqa_normalised(text) == folded

    @given(st.text(alphabet=string.printable))
    def test_folding_twice_is_folding_once(self, text: str) -> None:
        assert vqa_normalised(vqa_normalised(text)) == vqa_normalised(text)
