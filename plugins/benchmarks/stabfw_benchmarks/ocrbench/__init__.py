"""`ocrbench`: reading what is written in pictures (Liu et al., 2023, arXiv 2305.07895)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import (
    Answer,
    AnswerStatus,
    Benchmark,
    Graded,
    Instance,
    Outline,
    Score,
)
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split
from stabfw_benchmarks.scoring import accuracy, by_level, contains_any

_FORMULAS = "HME100k"


class OcrBench(HubBenchmark):
    """OCRBench: an answer is right if one of the gold ones stands in it.

    Case and white space are folded; in handwritten formulas, where case means something, white
    space is left out instead. Answers that differ in what is beside the gold one count as changed.
    """

    hub_id = "echo840/OCRBench"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 1000)}
    columns = ("dataset", "question_type", "question", "answer", "image")
    typical = Outline(0, ((800, 800),), 40, 12)
    suffix = ""

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; its question is shown as it is."""
        given = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        return Instance.create(
            (row["image"],),
            row["question"].strip(),
            native_id=number,
            references=tuple(map(str, given)),
            slices={"question_type": row["question_type"], "dataset": row["dataset"]},
        )

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read the whole text, folded."""
        if value := _folded(text, instance):
            return Answer(value, instance.kind)
        return Answer(None, instance.kind, AnswerStatus.EMPTY)

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Look for one of the gold answers in the text."""
        if answer.status is not AnswerStatus.OK or answer.value is None:
            return Score(0.0, False)
        golds = [_folded(gold, instance) for gold in instance.references]
        correct = contains_any(answer.value, golds)
        return Score(float(correct), correct)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """The score of the paper, which counts right answers out of 1,000, and shares by type."""
        parts = by_level(graded, "question_type")
        return {
            "score_of_1000": 1000 * accuracy(graded),
            **{level: accuracy(part) for level, part in parts.items()},
        }


def _folded(text: str, instance: Instance) -> str:
    if instance.slices.get("dataset") == _FORMULAS:
        return "".join(text.split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("ocrbench", OcrBench)
