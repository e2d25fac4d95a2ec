"""`textvqa`: questions that need reading (Singh et al., 2019, arXiv 1904.08920)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import Split
from stabfw_benchmarks.hub.people import PeopleBenchmark
from stabfw_benchmarks.scoring import vqa_normalised


class TextVqa(PeopleBenchmark):
    """TextVQA, the validation split, without the OCR tokens that LLaVA's own evaluation adds."""

    hub_id = "lmms-lab/textvqa"
    hub_splits: ClassVar[Mapping[str, Split]] = {
        "validation": Split("validation", 5000),
        # To calibrate on.
        "train": Split("train", 34_602),
    }
    columns = ("question_id", "image_id", "question", "image", "answers")
    typical = Outline(0, ((1024, 768),), 40)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row."""
        return Instance.create(
            (row["image"],),
            row["question"].capitalize(),
            native_id=row["question_id"],
            references=tuple(map(vqa_normalised, row["answers"])),
            cluster_id=str(row["image_id"]),
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("textvqa", TextVqa)
