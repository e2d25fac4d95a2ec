"""`pope`: is there an object in the picture or not? (Li et al., 2023, arXiv 2305.10355)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Graded, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split
from stabfw_benchmarks.scoring import by_level, detection


class Pope(HubBenchmark):
    """POPE: yes-or-no questions about objects, asked at random, popular and adversarial ones.

    The three kinds are splits of their own too, about the same pictures.
    """

    hub_id = "lmms-lab/POPE"
    hub_splits: ClassVar[Mapping[str, Split]] = {
        "test": Split("test", 9000),
        "random": Split("random", 3000, "Full"),
        "popular": Split("popular", 3000, "Full"),
        "adversarial": Split("adversarial", 3000, "Full"),
    }
    same_pictures = frozenset(hub_splits)
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

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Accuracy, precision, recall, F1 and share of yes, over all and by category."""
        parts = {"": graded, **by_level(graded, "category")}
        return {
            f"{name}.{level}" if level else name: value
            for level, part in parts.items()
            for name, value in detection(part)._asdict().items()
        }


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("pope", Pope)
