"""`easy-vqa`: one shape on a pale background (Zhou, 2019; PyPI package `easy-vqa`, MIT).

A small model saturates on it; use `shapes` to see answers change. Most yes/no questions can be
answered from their wording alone (about 82 % without looking), so compare with `no-image`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from stabfw.components import (
    AnswerKind,
    Benchmark,
    Image,
    Instance,
    SampledConfig,
    file_digest,
)
from stabfw.errors import DataError
from stabfw.registry import hookimpl

_COLORS = {"red", "green", "blue", "black", "gray", "teal", "brown", "yellow"}


class EasyVqaConfig(SampledConfig):
    """The package's questions, or a directory laid out like its data."""

    path: Path | None = Field(
        None,
        description="Directory with test/questions.json ([[question, answer, image id], …]) and "
        "test/images/ID.png; the installed easy-vqa package by default.",
    )


class EasyVqa(Benchmark[EasyVqaConfig]):
    """Questions about a single shape; all questions about a picture form a cluster."""

    config_cls = EasyVqaConfig
    splits = ("test", "train")

    def fingerprint(self) -> Mapping[str, Any]:
        """Digests of the question files and the listing of the pictures."""
        digests = {}
        for split in self.splits:
            folder = self._root() / split
            if not folder.is_dir():
                continue
            pictures = [(p, p.stat()) for p in sorted((folder / "images").glob("*"))]
            digests[split] = [
                file_digest(_existing(folder / "questions.json")),
                [[p.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for p, s in pictures],
            ]
        return digests

    def instances(self, split: str) -> Iterator[Instance]:
        """Read the questions of a split and refer to their pictures."""
        folder = self._root() / split
        entries = _entries(_existing(folder / "questions.json"))
        for number in self.config.order(len(entries), "easy-vqa")[: self.config.limit]:
            question, answer, image_id = entries[number]
            kind = AnswerKind.YES_NO if answer in ("yes", "no") else AnswerKind.SHORT
            yield Instance.create(
                (Image.from_file(folder / "images" / f"{image_id}.png"),),
                question,
                native_id=number,
                kind=kind,
                references=(answer,),
                cluster_id=f"{split}/{image_id}",
                slices={"kind": _slice(question, answer)},
            )

    def _root(self) -> Path:
        if self.config.path is not None:
            return self.config.path
        # The package is found without importing it: its module reads every question file.
        found = importlib.util.find_spec("easy_vqa")
        if found is None or found.origin is None:
            raise DataError(
                "benchmark easy-vqa needs the package easy-vqa: install it with "
                "`pip install 'stabfw[easy-vqa]'`, or give `path:` a directory laid out like it"
            )
        return Path(found.origin).parent / "data"


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; benchmark easy-vqa expects a directory with "
            "SPLIT/questions.json and SPLIT/images/ID.png"
        )
    return file


def _entries(file: Path) -> list[tuple[str, str, int | str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise DataError(f"{file}: expected a list of [question, answer, image id]")
    for number, entry in enumerate(content):
        if (
            not isinstance(entry, list)
            or len(entry) != 3
            or not isinstance(entry[0], str)
            or not isinstance(entry[1], str)
            or not isinstance(entry[2], (int, str))
        ):
            raise DataError(
                f"{file}: entry {number} is {json.dumps(entry)[:80]}, expected the columns "
                "[question, answer, image id]"
            )
    return [(question, answer, image_id) for question, answer, image_id in content]


def _slice(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "negated" if " not " in question or " no " in question else "yes/no"
    return "color" if answer in _COLORS else "shape"


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("easy-vqa", EasyVqa)
