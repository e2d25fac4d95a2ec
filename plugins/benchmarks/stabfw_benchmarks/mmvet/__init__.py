"""`mmvet`: several abilities in one question, answered freely (Yu et al., ICML 2024)."""

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
    read_score,
)
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import Split
from stabfw_benchmarks.hub.judged import JudgedBenchmark, question
from stabfw_benchmarks.scoring import mean_score

_BEFORE = (
    "First please perform reasoning, and think step by step to provide best answer to the "
    "following question: \n\n"
)


class Correctness(Rubric):
    """Grades an answer by the share of the correct answer that it holds, from 0 to 1."""

    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        """Ask once, with parts (`<AND>`) and alternatives (`<OR>`) of the gold answer as such."""
        (gold,) = instance.references
        for mark in ("<AND>", "<OR>"):
            gold = f" {mark} ".join(part.strip() for part in gold.split(mark))
        text = question("stabfw_benchmarks.mmvet")
        return (text.substitute(question=instance.question, gold=gold, answer=answer),)

    def read(self, reply: str, order: int) -> Verdict | None:
        """Read a number from 0 to 1."""
        score = read_score(reply)
        return None if score is None else (score,)

    def score(self, verdicts: Sequence[Verdict]) -> float:
        """Return the number."""
        ((score,),) = verdicts
        return score


class MmVet(JudgedBenchmark):
    """MM-Vet: recognition, OCR, knowledge, generation, space and mathematics, mostly combined."""

    hub_id = "lmms-lab/MMVet"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 218)}
    columns = ("question_id", "image", "question", "answer", "capability")
    typical = Outline(0, ((1024, 768),), 60, 150)
    judged: ClassVar[Rubric | None] = Correctness()

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row, whose abilities are a slice by their combination."""
        abilities = sorted(part.strip() for part in row["capability"].split(","))
        return Instance.create(
            () if row["image"] is None else (row["image"],),
            row["question"].strip(),
            native_id=row["question_id"],
            kind=AnswerKind.FREE,
            references=(row["answer"].strip(),),
            slices={"capability": "+".join(abilities)},
        )

    def render(self, instance: Instance) -> str:
        """The question, behind a request to reason."""
        return _BEFORE + super().render(instance)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Mean scores out of 100: of all questions, and of those that need an ability."""
        parts: dict[str, list[Graded]] = {}
        for one in graded:
            for ability in one.slices["capability"].split("+"):
                parts.setdefault(ability, []).append(one)
        means = {name: 100 * mean_score(part) for name, part in sorted(parts.items())}
        return {"score": 100 * mean_score(graded), **means}


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mmvet", MmVet)
