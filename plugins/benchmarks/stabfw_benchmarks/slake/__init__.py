"""`slake`: questions on scans, in English and Chinese (Liu et al., 2021, arXiv 2102.09542)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import Benchmark, Instance, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import SHORT, HubConfig, Split
from stabfw_benchmarks.hub.files import FileBenchmark
from stabfw_benchmarks.hub.medical import MedicalBenchmark

_SUFFIX = {"en": SHORT, "zh": "\n请用一个词或短语回答问题。"}
_SIZE = {"en": 1061, "zh": 1033}


class SlakeConfig(HubConfig):
    """Where the data lies, how much of it is used, and its language."""

    language: Literal["en", "zh"] = Field("en", description="Language of the questions.")


class Slake(MedicalBenchmark, FileBenchmark):
    """SLAKE, the test split in one language; all questions about a scan form a cluster.

    Which questions are closed is what the data set says: some of them are answered with a word.
    """

    config_cls: ClassVar[type[HubConfig]] = SlakeConfig
    hub_id = "BoKelvin/SLAKE"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test.json", 2094)}
    columns = (
        *("qid", "img_id", "img_name", "question", "answer", "q_lang"),
        *("answer_type", "modality", "content_type"),
    )
    files = ("test.json", "imgs.zip")
    archive = "imgs.zip"
    picture = "img_name"
    typical = Outline(0, ((512, 512),), 40)

    @property
    def language(self) -> str:
        """The language of the questions."""
        assert isinstance(self.config, SlakeConfig)
        return self.config.language

    def instance(self, row: Mapping[str, Any], number: int) -> Instance | None:
        """Read a row, unless it is in another language."""
        if str(row["q_lang"]).strip().lower() != self.language:
            return None
        made = super().instance(row, int(row["qid"]))
        assert made is not None
        return replace(
            made,
            cluster_id=str(row["img_id"]),
            slices={
                "answer_type": str(row["answer_type"]).strip().lower(),
                "modality": str(row["modality"]),
                "content_type": str(row["content_type"]),
            },
        )

    def render(self, instance: Instance) -> str:
        """The question, and in its language how to answer."""
        return super().render(instance).removesuffix(self.suffix) + _SUFFIX[self.language]

    def outline(self, split: str) -> Outline:
        """The published number of questions in the language."""
        size = _SIZE[self.language]
        return replace(super().outline(split), instances=min(size, self.config.limit or size))


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("slake", Slake)
