"""`llava-bench`: LLaVA-Bench (In-the-Wild), open questions (Liu et al., NeurIPS 2023, sec. 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import (
    AnswerKind,
    Benchmark,
    Graded,
    Instance,
    Outline,
    Rubric,
    Verdict,
    read_ratings,
)
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import Split
from stabfw_benchmarks.hub.judged import JudgedBenchmark, question
from stabfw_benchmarks.scoring import by_level, mean_score


class PairRating(Rubric):
    """Rates an answer beside the reference, 1 to 10 each, in both orders."""

    orders: ClassVar[int] = 2

    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        """Show the reference first, then the answer first."""
        (gold,) = instance.references
        return tuple(
            question("stabfw_benchmarks.llava_bench").substitute(
                context=instance.hint, question=instance.question, first=first, second=second
            )
            for first, second in ((gold, answer), (answer, gold))
        )

    def read(self, reply: str, order: int) -> Verdict | None:
        """Read the ratings of answer and reference, in this order."""
        ratings = read_ratings(reply)
        if ratings is None:
            return None
        return ratings if order else ratings[::-1]

    def score(self, verdicts: Sequence[Verdict]) -> float:
        """The mean rating of the answer over that of the reference."""
        answer, reference = map(sum, zip(*verdicts, strict=True))
        return answer / reference


class LlavaBench(JudgedBenchmark):
    """LLaVA-Bench (In-the-Wild): conversation, description and reasoning, beside GPT-4's answer.

    GPT-4 and the judge know the picture by a description only, which the model is not shown.
    """

    hub_id = "lmms-lab/llava-bench-in-the-wild"
    hub_splits: ClassVar[Mapping[str, Split]] = {"train": Split("train", 60)}
    columns = ("question", "image", "caption", "gpt_answer", "category")
    typical = Outline(0, ((1024, 768),), 40, 200)
    judged: ClassVar[Rubric | None] = PairRating()

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; the description is its hint."""
        caption = row["caption"]
        return Instance.create(
            (row["image"],),
            row["question"].strip(),
            native_id=number,
            kind=AnswerKind.FREE,
            hint=caption if isinstance(caption, str) else "\n".join(caption),
            references=(row["gpt_answer"].strip(),),
            slices={"category": row["category"]},
        )

    def render(self, instance: Instance) -> str:
        """The question alone."""
        return instance.question

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Mean relative scores in per cent: of all questions, and by kind of question."""
        parts = by_level(graded, "category")
        means = {level: 100 * mean_score(part) for level, part in parts.items()}
        return {"relative_score": 100 * mean_score(graded), **means}


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("llava-bench", LlavaBench)
