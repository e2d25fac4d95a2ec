"""`scienceqa`: school questions with pictures (Lu et al., 2022, arXiv 2209.09513)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, HubBenchmark, Split, choices


class ScienceQa(HubBenchmark):
    """ScienceQA, the questions of the test split that have a picture."""

    hub_id = "lmms-lab/ScienceQA"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 2017, "ScienceQA-IMG")}
    columns = ("image", "question", "choices", "answer", "hint", "subject")
    typical = Outline(0, ((500, 375),), 110)
    suffix = LETTER

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; the hint is shown as context."""
        return Instance.create(
            (row["image"],),
            row["question"],
            native_id=number,
            kind=AnswerKind.CHOICE,
            choices=choices(row["choices"]),
            hint=f"Context: {row['hint']}" if row["hint"] else "",
            references=("ABCDEFGHIJ"[int(row["answer"])],),
            slices={"subject": row["subject"]},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("scienceqa", ScienceQa)
