"""Base of benchmarks whose questions were answered by ten people each."""

from __future__ import annotations

from stabfw.components import Answer, AnswerStatus, Instance, Score, extract_text

from stabfw_benchmarks.hub import HubBenchmark
from stabfw_benchmarks.hub.vqa import soft_accuracy, vqa_normalised

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
