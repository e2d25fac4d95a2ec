"""`ai2d`: diagrams of school books (Kembhavi et al., 2016, arXiv 1603.07396)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, HubBenchmark, Split, choices


class Ai2d(HubBenchmark):
    """AI2D, the test split, with the labels in the diagrams left visible."""

    hub_id = "lmms-lab/ai2d"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 3088)}
    columns = ("question", "options", "answer", "image")
    typical = Outline(0, ((600, 450),), 70)
    suffix = LETTER

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row, whose answer is the place of an option, counted from 0."""
        return Instance.create(
            (row["image"],),
            row["question"],
            native_id=number,
            kind=AnswerKind.CHOICE,
            choices=choices(row["options"]),
            references=("ABCDEFGHIJ"[int(row["answer"])],),
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("ai2d", Ai2d)
