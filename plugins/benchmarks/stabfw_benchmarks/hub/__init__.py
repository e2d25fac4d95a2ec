"""Base of benchmarks that are read in the layout of a data set on the Hugging Face hub."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import (
    Answer,
    AnswerKind,
    Benchmark,
    Choice,
    Instance,
    Option,
    Outline,
    SampledConfig,
    extract_choice,
)
from stabfw.errors import DataError

__all__ = ["LETTER", "SHORT", "HubBenchmark", "HubConfig", "Split", "choices"]

#: How most evaluations ask for a short answer (LLaVA-1.5, section A.2).
SHORT = "\nAnswer the question using a single word or phrase."
#: How they ask for one of several options.
LETTER = "\nAnswer with the option's letter from the given choices directly."

#: Options that the question itself holds, so that only their letters are known.
_INSIDE = tuple(Choice(letter, f"option {letter}") for letter in "ABCD")


@dataclass(frozen=True)
class Split:
    """Where a split is in the data set on the hub.

    Attributes:
        split: Its name there; of a data set that is read file by file, the file.
        size: Questions in it, as published.
        config: Name of the configuration, empty for the default one.
    """

    split: str
    size: int
    config: str = ""


class HubConfig(SampledConfig):
    """Where the data lies, and how much of it is used."""

    path: Path | None = Field(
        default=None,
        description="Directory laid out like the data set on the hub; the hub's own, from the "
        "cache, by default.",
    )
    revision: str = Field(default="", description="Branch, tag or commit on the hub.")
    streaming: bool = Field(
        default=False,
        description="Read Parquet files in place instead of making `datasets` copy them into its "
        "cache first; the instances are the same.",
    )


class HubBenchmark(Benchmark[HubConfig]):
    """A data set that is read by `datasets`, from the hub's cache or a directory.

    Nothing is downloaded. Pictures keep their original bytes, which identify them.

    Attributes:
        hub_id: The data set's id on the hub.
        hub_splits: Its splits by their names here, the one evaluated by default first.
        columns: Columns without which a row cannot be read.
        grouped_by: The column that tells which rows belong together, if one does; `limit` then
            draws whole groups, of which the last may be cut.
        files: What of the data set is needed, where that is not everything.
        typical: One question as they mostly are, for an estimate of what they cost.
        suffix: What is written behind question and options.
    """

    config_cls: ClassVar[type[HubConfig]] = HubConfig
    hub_id: ClassVar[str]
    hub_splits: ClassVar[Mapping[str, Split]]
    columns: ClassVar[tuple[str, ...]]
    grouped_by: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    typical: ClassVar[Outline]
    suffix: ClassVar[str] = SHORT

    def __init_subclass__(cls) -> None:
        if "hub_splits" in cls.__dict__:
            cls.splits = tuple(cls.hub_splits)

    @abstractmethod
    def instance(self, row: Mapping[str, Any], number: int) -> Instance | None:
        """Make an instance of a row, or None if the row is not part of the benchmark.

        Args:
            row: Its values; pictures are `Image`s.
            number: Place of the row in the split.
        """

    def fingerprint(self) -> Mapping[str, Any]:
        """The commit on the hub, or the listing of the directory."""
        if self.config.path is None:
            return {"commit": self._folder().name}
        files = sorted(path for path in self._folder().rglob("*") if path.is_file())
        return {
            str(path.relative_to(self.config.path)): [
                path.stat().st_size,
                path.stat().st_mtime_ns,
                path.stat().st_ctime_ns,
            ]
            for path in files
        }

    def instances(self, split: str) -> Iterator[Instance]:
        """Read the rows of a split."""
        rows = self.rows(self.hub_splits[split], self.columns)
        groups = self._groups(rows)
        left = self.config.limit
        order = self.config.order(len(groups), self.hub_id)
        for number in chain.from_iterable(groups[place] for place in order):
            if left == 0:
                return
            if (instance := self.instance(rows[number], number)) is not None:
                left = None if left is None else left - 1
                yield instance

    def group(self, value: Any) -> str:
        """The group that a row belongs to, by its value in the column `grouped_by`."""
        return str(value)

    def _groups(self, rows: Any) -> list[list[int]]:
        """Places of the rows that belong together, in the order of their first ones."""
        if not self.grouped_by:
            return [[place] for place in range(len(rows))]
        found: dict[str, list[int]] = {}
        for place, value in enumerate(rows.column(self.grouped_by)):
            found.setdefault(self.group(value), []).append(place)
        return list(found.values())

    def rows(self, split: Split, columns: tuple[str, ...]) -> Any:
        """Open a split, with its pictures as `Image`s.

        Raises:
            DataError: If it is not on this machine or lacks a column.
        """
        if find_spec("datasets") is None:
            raise DataError(
                f'{self.hub_id}: the package datasets is not installed: pip install "stabfw[hub]"'
            )
        from stabfw_benchmarks.hub.reading import open_rows

        streaming = self.config.streaming
        return open_rows(self._folder(), split, columns, self.hub_id, streaming)

    def outline(self, split: str) -> Outline:
        """The published size, or `limit`, and the typical question."""
        size = self.hub_splits[split].size
        return Outline(
            min(size, self.config.limit or size),
            self.typical.images,
            self.typical.text_tokens,
            self.typical.answer_tokens,
        )

    def render(self, instance: Instance) -> str:
        """The question, the options as lettered lines, then how to answer."""
        return super().render(instance) + self.suffix

    def extract(self, text: str, instance: Instance) -> Answer:
        """As all others; a letter where the question holds the options."""
        if instance.kind is AnswerKind.CHOICE and not instance.choices:
            return extract_choice(text, _INSIDE)
        return super().extract(text, instance)

    def options(self, instance: Instance) -> tuple[Option, ...]:
        """As all others; the letters A to D where the question holds the options."""
        if instance.kind is AnswerKind.CHOICE and not instance.choices:
            return tuple(Option(choice.id, (choice.id,)) for choice in _INSIDE)
        return super().options(instance)

    @property
    def download(self) -> str:
        """The command that brings the data set onto this machine."""
        words = ["hf download", self.hub_id, *self.files, "--repo-type dataset"]
        if self.config.revision:
            words.append(f"--revision {self.config.revision}")
        return " ".join(words)

    def _folder(self) -> Path:
        if self.config.path is not None:
            if not self.config.path.is_dir():
                raise DataError(
                    f"{self.config.path}: no such directory; it should be laid out like "
                    f"{self.hub_id} on the hub"
                )
            return self.config.path
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import LocalEntryNotFoundError
        except ImportError as error:
            raise DataError(
                f'{self.hub_id}: data sets of the hub need pip install "stabfw[hub]"'
            ) from error
        revision = self.config.revision or None
        try:
            found = snapshot_download(
                self.hub_id, repo_type="dataset", revision=revision, local_files_only=True
            )
        except (LocalEntryNotFoundError, OSError) as error:
            raise DataError(
                f"{self.hub_id}: not in the Hugging Face cache; download it first: "
                f"{self.download} (or give `path:`, a directory laid out like it)"
            ) from error
        return Path(found)


def choices(texts: list[str]) -> tuple[Choice, ...]:
    """Options whose ids are the letters that they have in the data set."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return tuple(Choice(letter, str(text)) for letter, text in zip(letters, texts, strict=False))
