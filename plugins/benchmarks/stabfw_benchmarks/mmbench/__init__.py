"""`mmbench`: many abilities, by options in every order (Liu et al., 2023, arXiv 2307.06281)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Graded, Instance, Outline, option_lines
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, HubBenchmark, Split, choices
from stabfw_benchmarks.scoring import group_accuracy


class MmBench(HubBenchmark):
    """MMBench in English or Chinese, the development split.

    Its rows hold each question once for every rotation of the options: copies share a group.
    Accuracy is that of the single rows.
    """

    hub_id = "lmms-lab/MMBench"
    hub_splits: ClassVar[Mapping[str, Split]] = {
        "en": Split("dev", 4329, "en"),
        "cn": Split("dev", 4329, "cn"),
    }
    same_pictures = frozenset(hub_splits)
    columns = ("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "image")
    grouped_by = "index"
    typical = Outline(0, ((500, 400),), 100)
    suffix = LETTER

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; options that are left empty are not shown."""
        given = {letter: str(row[letter]) for letter in "ABCD"}
        texts = [text for text in given.values() if text not in ("", "nan", "None")]
        hint = str(row["hint"] or "")
        return Instance.create(
            (row["image"],),
            row["question"],
            native_id=row["index"],
            kind=AnswerKind.CHOICE,
            choices=choices(texts),
            hint="" if hint == "nan" else hint,
            references=(row["answer"],),
            group_id=self.group(row["index"]),
            slices={"category": row["category"]},
        )

    def group(self, value: Any) -> str:
        """The number of the question that a row is a rotation of."""
        return str(int(value) % 1_000_000)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """The paper's accuracy: a question counts only if every rotation is answered right."""
        return {"circular_accuracy": group_accuracy(graded)}

    def render(self, instance: Instance) -> str:
        """Hint and question, a line that announces the options, then these."""
        lines = [f"{instance.hint} {instance.question}".strip() + " There are several options:"]
        return "\n".join([*lines, *option_lines(instance)]) + self.suffix


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mmbench", MmBench)
