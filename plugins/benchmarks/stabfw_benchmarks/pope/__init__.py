"""`pope`: is there an object in the picture or not? (Li et al., 2023, arXiv 2305.10355)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split


class Pope(HubBenchmark):
    """POPE: yes-or-no questions about objects, asked at random, popular and adversarial ones.

    Accuracy is reported, by `category` too; the F1 of the paper is not.
    """

    hub_id = "lmms-lab/POPE"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 9000)}
    columns = ("question_id", "question", "answer", "image", "image_source", "category")
    typical = Outline(0, ((640, 480),), 40)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; questions about one picture form a cluster."""
        return Instance.create(
            (row["image"],),
            row["question"],
            native_id=f"{row['category']} {row['question_id']}",
            kind=AnswerKind.YES_NO,
            references=(row["answer"].strip().lower(),),
            cluster_id=str(row["image_source"]),
            slices={"category": row["category"]},
        )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("pope", Pope)
