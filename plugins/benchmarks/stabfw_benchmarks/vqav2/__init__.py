"""`vqav2`: open questions about photographs (Goyal et al., 2017, arXiv 1612.00837)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import Split
from stabfw_benchmarks.hub.people import PeopleBenchmark
from stabfw_benchmarks.scoring import vqa_normalised


class VqaV2(PeopleBenchmark):
    """VQAv2, the validation split, as the answers to the test splits are not public."""

    hub_id = "lmms-lab/VQAv2"
    hub_splits: ClassVar[Mapping[str, Split]] = {"validation": Split("validation", 214_354)}
    columns = ("question_id", "question", "image", "image_id", "answers", "answer_type")
    typical = Outline(0, ((640, 480),), 40)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row."""
        return Instance.create(
            (row["image"],),
            row["question"],
            native_id=row["question_id"],
            references=tuple(vqa_normalised(given["answer"]) for given in row["answers"]),
            cluster_id=str(row["image_id"]),
            slices={"answer_type": row["answer_type"]},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("vqav2", VqaV2)
