"""`realworldqa`: places and distances in photographs, many from cars (xAI, 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline, normalised
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split


class RealWorldQa(HubBenchmark):
    """RealWorldQA: a letter, yes or no, or a word; each question says itself how to answer."""

    hub_id = "lmms-lab/RealWorldQA"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 765)}
    columns = ("image", "question", "answer")
    typical = Outline(0, ((1536, 1024),), 60)
    suffix = ""

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; its question is shown as it is, options and instruction included."""
        answer, kind = row["answer"].strip(), AnswerKind.SHORT
        if answer in ("A", "B", "C", "D"):
            kind = AnswerKind.CHOICE
        elif (answer := normalised(answer)) in ("yes", "no"):
            kind = AnswerKind.YES_NO
        return Instance.create(
            (row["image"],),
            row["question"].strip(),
            native_id=number,
            kind=kind,
            references=(answer,),
            slices={"kind": str(kind)},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("realworldqa", RealWorldQa)
