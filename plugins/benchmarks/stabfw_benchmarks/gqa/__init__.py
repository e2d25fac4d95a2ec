"""`gqa`: questions made from scene graphs (Hudson and Manning, 2019, arXiv 1902.09506)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Answer, Benchmark, Instance, Outline, extract_text
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import HubBenchmark, Split
from stabfw_benchmarks.scoring import vqa_normalised


class Gqa(HubBenchmark):
    """GQA, the balanced questions of the split testdev: a short answer, right or wrong.

    The hub's data set keeps questions and pictures apart; they are joined by `imageId`.
    """

    hub_id = "lmms-lab/GQA"
    hub_splits: ClassVar[Mapping[str, Split]] = {
        "testdev": Split("testdev", 12578, "testdev_balanced_instructions")
    }
    columns = ("id", "imageId", "question", "answer", "types")
    typical = Outline(0, ((500, 400),), 40)

    _pictures: tuple[Any, Mapping[str, int]] | None = None

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row and look its picture up."""
        if self._pictures is None:
            split = Split("testdev", 398, "testdev_balanced_images")
            pictures = self.rows(split, ("id", "image"))
            self._pictures = pictures, {name: n for n, name in enumerate(pictures.column("id"))}
        pictures, places = self._pictures
        if row["imageId"] not in places:
            raise DataError(
                f"{self.hub_id}: question {row['id']} is about a picture that is not there"
            )
        return Instance.create(
            (pictures[places[row["imageId"]]]["image"],),
            row["question"],
            native_id=row["id"],
            references=(vqa_normalised(row["answer"]),),
            cluster_id=str(row["imageId"]),
            slices={"type": str((row["types"] or {}).get("structural", ""))},
        )

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read the text without case, punctuation and articles."""
        return extract_text(text, instance.kind, vqa_normalised)


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("gqa", Gqa)
