"""`seed-bench`: spatial and temporal understanding (Li et al., 2023, arXiv 2307.16125)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, HubBenchmark, Split, choices


class SeedBench(HubBenchmark):
    """SEED-Bench, the questions about single pictures; those about videos are left out."""

    hub_id = "lmms-lab/SEED-Bench"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 14_233)}
    columns = (
        "question_id",
        "question",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "answer",
        "data_type",
        "image",
        "question_type_id",
    )
    typical = Outline(0, ((1024, 768),), 80)
    suffix = LETTER

    def instance(self, row: Mapping[str, Any], number: int) -> Instance | None:
        """Read a row about a picture."""
        if row["data_type"] != "image":
            return None
        return Instance.create(
            tuple(row["image"]),
            row["question"],
            native_id=row["question_id"],
            kind=AnswerKind.CHOICE,
            choices=choices([row[f"choice_{letter}"] for letter in "abcd"]),
            references=(row["answer"],),
            slices={"question_type": str(row["question_type_id"])},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("seed-bench", SeedBench)
