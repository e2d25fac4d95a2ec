"""`mmstar`: questions that cannot be answered without looking (Chen et al., 2024, 2403.20330)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Graded, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, HubBenchmark, Split
from stabfw_benchmarks.scoring import accuracy, by_level, share


class MmStar(HubBenchmark):
    """MMStar: four options each, written in the question in one way or another."""

    hub_id = "Lin-Chen/MMStar"
    hub_splits: ClassVar[Mapping[str, Split]] = {"val": Split("val", 1500)}
    columns = ("index", "question", "image", "answer", "category", "l2_category")
    typical = Outline(0, ((512, 400),), 90)
    # Without the full stop, as in the evaluation that others use.
    suffix = LETTER.removesuffix(".")

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; its question is shown as it is, options included."""
        return Instance.create(
            (row["image"],),
            row["question"].strip(),
            native_id=row["index"],
            kind=AnswerKind.CHOICE,
            references=(row["answer"].strip().upper(),),
            slices={"category": row["category"], "l2_category": row["l2_category"]},
        )

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """The mean over the second level of categories, in all and for each of the first."""
        parts = {"average": graded, **by_level(graded, "category")}
        return {name: _mean(part) for name, part in parts.items()}


def _mean(graded: Sequence[Graded]) -> float:
    levels = by_level(graded, "l2_category").values()
    return share(sum(map(accuracy, levels)), len(levels))


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mmstar", MmStar)
