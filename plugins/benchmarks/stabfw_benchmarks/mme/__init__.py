"""`mme`: yes-or-no questions on perception and cognition (Fu et al., 2023, arXiv 2306.13394)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from stabfw.components import AnswerKind, Benchmark, Graded, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split
from stabfw_benchmarks.scoring import accuracy, by_level, group_accuracy

_OWN_SUFFIX = " Please answer yes or no."
_COGNITION = {
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
}


class Mme(HubBenchmark):
    """MME: two questions about each picture, one to be answered with yes and one with no."""

    hub_id = "lmms-lab/MME"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 2374)}
    columns = ("question_id", "image", "question", "answer", "category")
    grouped_by = "question_id"
    typical = Outline(0, ((640, 480),), 45)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; the two questions about a picture form a group."""
        return Instance.create(
            (row["image"],),
            row["question"].replace(_OWN_SUFFIX, "").strip(),
            native_id=f"{row['question_id']} {number}",
            kind=AnswerKind.YES_NO,
            references=(row["answer"].strip().lower(),),
            group_id=self.group(row["question_id"]),
            slices={"category": row["category"]},
        )

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Sums over categories of accuracy and accuracy+ in per cent (section 2.2 of the paper).

        Accuracy+ is the share of pictures both of whose questions are answered right. At best,
        perception is 2,000 (ten categories) and cognition 800 (four).
        """
        found = dict.fromkeys(("perception", "cognition"), 0.0)
        for category, part in by_level(graded, "category").items():
            name = "cognition" if category in _COGNITION else "perception"
            found[name] += 100 * (accuracy(part) + group_accuracy(part))
        return found


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mme", Mme)
