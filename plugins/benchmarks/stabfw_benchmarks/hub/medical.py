"""Base of benchmarks of medical pictures with short answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Graded,
    Instance,
    Score,
    extract_text,
    extract_yes_no,
)

from stabfw_benchmarks.hub import HubBenchmark
from stabfw_benchmarks.scoring import accuracy, by_level, mean_score, token_recall, words_normalised


class MedicalBenchmark(HubBenchmark):
    """Questions that are answered with yes or no, or with a few words.

    An open answer is correct if it is the gold one but for case, punctuation and what stands in
    brackets; its score is the share of the gold answer's words that it holds.
    """

    def instance(self, row: Mapping[str, Any], number: int) -> Instance | None:
        """Read a row of `image`, `question` and `answer`; a picture's questions are a cluster."""
        gold = words_normalised(str(row["answer"]))
        closed = gold in ("yes", "no")
        return Instance.create(
            (row["image"],),
            row["question"].strip(),
            native_id=number,
            kind=AnswerKind.YES_NO if closed else AnswerKind.SHORT,
            references=(gold,),
            slices={"answer_type": "closed" if closed else "open"},
        )

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read yes or no, or the words."""
        if instance.kind is AnswerKind.YES_NO:
            return extract_yes_no(text)
        return extract_text(text, instance.kind, words_normalised)

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Equality; in part for an open answer that holds some of the words."""
        found = super().score(answer, instance)
        if found.correct or instance.kind is AnswerKind.YES_NO:
            return found
        if answer.status is not AnswerStatus.OK or answer.value is None:
            return found
        said = answer.value
        return Score(max(token_recall(said, gold) for gold in instance.references), False)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Accuracy of closed and of open questions, and the recall of words of the open ones."""
        parts = by_level(graded, "answer_type")
        found = {f"{level}_accuracy": accuracy(part) for level, part in parts.items()}
        return found | {"open_recall": mean_score(parts["open"])} if "open" in parts else found
