"""`mme`: yes-or-no questions on perception and cognition (Fu et al., 2023, arXiv 2306.13394)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split

_OWN_SUFFIX = " Please answer yes or no."


class Mme(HubBenchmark):
    """MME: two questions about each picture, one to be answered with yes and one with no.

    Accuracy is reported, by `category` too; the sum of accuracy and accuracy+ of the paper is not.
    """

    hub_id = "lmms-lab/MME"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 2374)}
    columns = ("question_id", "image", "question", "answer", "category")
    typical = Outline(0, ((640, 480),), 45)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; the two questions about a picture form a group."""
        return Instance.create(
            (row["image"],),
            row["question"].replace(_OWN_SUFFIX, "").strip(),
            native_id=f"{row['question_id']} {number}",
            kind=AnswerKind.YES_NO,
            references=(row["answer"].strip().lower(),),
            group_id=str(row["question_id"]),
            slices={"category": row["category"]},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mme", Mme)
