"""Base of benchmarks whose free answers a judge scores."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template

from stabfw.components import Answer, AnswerStatus, Instance, Score, normalised

from stabfw_benchmarks.hub import HubBenchmark


class JudgedBenchmark(HubBenchmark):
    """Asks for a free text, which `judged` scores.

    Without a judge, only what is word for word a gold answer would be right.
    """

    suffix = ""

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Equality with a gold answer, but for case and white space."""
        golds = [normalised(gold) for gold in instance.references]
        correct = answer.status is AnswerStatus.OK and answer.value in golds
        return Score(float(correct), correct)


@cache
def question(package: str) -> Template:
    """Read what a judge is asked from `judge.txt` beside a benchmark."""
    return Template(files(package).joinpath("judge.txt").read_text("utf-8").strip())
