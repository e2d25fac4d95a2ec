"""Base of benchmarks whose questions were answered by ten people each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stabfw.components import Answer, AnswerStatus, Graded, Instance, Score, extract_text

from stabfw_benchmarks.hub import HubBenchmark
from stabfw_benchmarks.scoring import by_level, mean_score, soft_accuracy, vqa_normalised

_CORRECT = 0.5


class PeopleBenchmark(HubBenchmark):
    """Scores by agreement with people; an answer counts as correct from a score of 0.5."""

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read the text as the VQA evaluation folds it."""
        return extract_text(text, instance.kind, vqa_normalised)

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Compare with all people's answers, which `references` holds one by one."""
        if answer.status is not AnswerStatus.OK or answer.value is None:
            return Score(0.0, False)
        value = soft_accuracy(answer.value, instance.references)
        return Score(value, value >= _CORRECT)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """The mean agreement with people, by type of answer too where that is known."""
        levels = by_level(graded, "answer_type")
        parts = {f"vqa_accuracy.{level}": mean_score(part) for level, part in levels.items()}
        return {"vqa_accuracy": mean_score(graded), **parts}
