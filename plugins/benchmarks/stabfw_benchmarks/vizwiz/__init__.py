"""`vizwiz`: questions of blind people (Gurari et al., 2018, arXiv 1802.08218)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import SHORT, Split
from stabfw_benchmarks.hub.people import PeopleBenchmark
from stabfw_benchmarks.scoring import vqa_normalised


class VizWiz(PeopleBenchmark):
    """VizWiz-VQA, the validation split; some questions cannot be answered."""

    hub_id = "lmms-lab/VizWiz-VQA"
    hub_splits: ClassVar[Mapping[str, Split]] = {"val": Split("val", 4319)}
    columns = ("question_id", "image", "question", "answers", "category")
    typical = Outline(0, ((1224, 1632),), 60)
    suffix = "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row."""
        return Instance.create(
            (row["image"],),
            row["question"].capitalize(),
            native_id=row["question_id"],
            references=tuple(map(vqa_normalised, row["answers"])),
            slices={"category": row["category"]},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("vizwiz", VizWiz)
