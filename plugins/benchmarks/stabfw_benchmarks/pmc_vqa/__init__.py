"""`pmc-vqa`: figures of medical papers (Zhang et al., 2023, arXiv 2305.10415)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, Split, choices
from stabfw_benchmarks.hub.files import FileBenchmark

_LABEL = re.compile(r"\s*[A-D]\s*[:.)]\s*")


class PmcVqa(FileBenchmark):
    """PMC-VQA, the part of the test split that its authors checked by hand."""

    hub_id = "RadGenome/PMC-VQA"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test_clean.csv", 2000)}
    columns = (
        *("Figure_path", "Question", "Answer_label"),
        *("Choice A", "Choice B", "Choice C", "Choice D"),
    )
    files = ("test_clean.csv", "images.zip")
    archive = "images.zip"
    picture = "Figure_path"
    typical = Outline(0, ((600, 500),), 90)
    suffix = LETTER

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; options are written with their letter, which is shown anew."""
        return Instance.create(
            (row["image"],),
            row["Question"].strip(),
            native_id=number,
            kind=AnswerKind.CHOICE,
            choices=choices([_LABEL.sub("", row[f"Choice {c}"], count=1).strip() for c in "ABCD"]),
            references=(row["Answer_label"].strip().upper(),),
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("pmc-vqa", PmcVqa)
