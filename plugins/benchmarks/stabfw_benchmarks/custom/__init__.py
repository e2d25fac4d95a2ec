"""`custom`: a user's own questions about their own pictures."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Benchmark,
    Choice,
    Image,
    Instance,
    SampledConfig,
    Score,
    file_digest,
)
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_benchmarks.custom import folders
from stabfw_benchmarks.custom.columns import Columns, named
from stabfw_benchmarks.custom.pinned import check, pins
from stabfw_benchmarks.custom.questions import (
    LETTERS,
    Answers,
    Picture,
    Question,
    read_questions,
)
from stabfw_benchmarks.custom.tables import Table, read_table
from stabfw_benchmarks.hub import LETTER, SHORT
from stabfw_benchmarks.scoring import anls, contains_any, relaxed_equal

_QUESTION = "{question}"
_SCORES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact": lambda answer, golds: float(answer in golds),
    "contains": lambda answer, golds: float(contains_any(answer, golds)),
    "anls": anls,
    "numeric": lambda answer, golds: float(any(relaxed_equal(answer, gold) for gold in golds)),
}
_CORRECT = 0.5
_SUFFIXES = {AnswerKind.CHOICE: LETTER, AnswerKind.FREE: ""}


class CustomConfig(SampledConfig):
    """A table of questions, or a directory of pictures."""

    name: str | None = Field(default=None, description="Name in results; by default the file's.")
    path: Path = Field(
        description="Table of questions (.jsonl, .csv, .tsv, .parquet), or a directory: with "
        "metadata.jsonl (or the like) beside the pictures, or with one folder a class."
    )
    images: Path | None = Field(
        default=None, description="Folder that names of pictures are relative to; the table's own."
    )
    columns: Columns | None = Field(
        default=None, description="Which column holds what; by default, told by their names."
    )
    kind: AnswerKind | None = Field(
        default=None,
        description="How answers look; by default choice where there are options, yes-no where "
        "all answers are yes or no, else short.",
    )
    answers: Answers | None = Field(
        default=None,
        description="How the right option is written down: its text, its letter, its index from 0 "
        "or its number from 1; by default, told from the data.",
    )
    score: Literal["exact", "contains", "anls", "numeric"] = Field(
        default="exact",
        description="How short and free answers are compared with the right ones: equal; one of "
        "them stands in the answer; spelled alike (from 0.5 on it counts as right); numbers that "
        "differ by 5 % at the most.",
    )
    separator: str = Field(
        default="|", min_length=1, description="Between several values in a cell of .csv or .tsv."
    )
    question: str = Field(default="", description="Asked in every row, instead of a column.")
    prompt: str = Field(
        default=_QUESTION, description="Text around each question, which stands for {question}."
    )
    suffix: str | None = Field(
        default=None,
        description="Text behind question and options; by default it asks for a letter, or for a "
        "single word or phrase.",
    )
    private: bool = Field(
        default=True,
        description="Keep pictures out of reports and MLflow, whatever `tracking.images` says.",
    )

    @model_validator(mode="before")
    @classmethod
    def _called_like_the_file(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and not value.get("name") and value.get("path"):
            return {**value, "name": Path(str(value["path"])).stem}
        return value

    @field_validator("prompt")
    @classmethod
    def _holds_the_question(cls, prompt: str) -> str:
        if prompt.count(_QUESTION) != 1:
            raise ValueError(f"must contain {_QUESTION} once")
        return prompt


class Custom(Benchmark[CustomConfig]):
    """Questions of a user's own; its pictures stay private unless the config says otherwise."""

    config_cls = CustomConfig

    @classmethod
    def suggest(cls, data: Path) -> Mapping[str, Any]:
        """Propose the columns and the kind that the data seems to have."""
        found: dict[str, Any] = {"path": str(data)}
        benchmark = cls(CustomConfig(path=data))
        table = benchmark._table()
        if table.path.is_file():
            columns = named(table, None, "")
            found["columns"] = columns.model_dump(mode="json", exclude_defaults=True)
        else:
            found["question"] = folders.WHICH
        kinds = {question.kind for question in benchmark._questions()}
        if len(kinds) == 1:
            found["kind"] = kinds.pop().value
        return found

    @property
    def private(self) -> bool:
        """As the config says."""
        return self.config.private

    @property
    def representative(self) -> bool:
        """Not what `stabfw canary` exported."""
        return pins(self.config.path) is None

    def fingerprint(self) -> Mapping[str, Any]:
        """Digest of the table, and sizes and times of the pictures' files."""
        table = self._table()
        files = sorted(
            {
                picture.path
                for question in self._questions()
                for picture in question.pictures
                if picture.path is not None
            }
        )
        stats = [(file, file.stat()) for file in files]
        listing = [[str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns] for f, s in stats]
        return {
            "table": file_digest(table.path) if table.path.is_file() else "",
            "pictures": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
        }

    def instances(self, split: str) -> Iterator[Instance]:
        """Read the questions and refer to their pictures.

        Raises:
            DataError: With file, line and column of everything that is wrong.
        """
        questions = self._questions()
        pinned = pins(self.config.path)
        mixed = len({question.kind for question in questions}) > 1
        again: Counter[tuple[Any, ...]] = Counter()
        clusters: dict[str, tuple[str, str]] = {}
        for place in self.config.order(len(questions), "custom")[: self.config.limit]:
            question = questions[place]
            images = tuple(map(_image, question.pictures))
            if pinned is not None:
                for picture, image in zip(question.pictures, images, strict=True):
                    if picture.path is not None:
                        check(picture.path, image.digest, self.config.path, pinned)
            if question.cluster:
                _one_cluster(question, images, clusters)
            # Rows that are the same in everything are told apart by their number.
            content = (*(i.digest for i in images), question.text, question.hint, question.options)
            number = again[content]
            again[content] += 1
            yield Instance.create(
                images,
                question.text,
                native_id=question.id or number,
                kind=question.kind,
                choices=tuple(map(Choice, LETTERS, question.options)),
                hint=question.hint,
                references=question.golds,
                cluster_id=question.cluster or None,
                group_id=question.group,
                slices={**({"kind": question.kind.value} if mixed else {}), **question.slices},
            )

    def render(self, instance: Instance) -> str:
        """The hint, the question within the prompt, the options, then how to answer."""
        asked = self.config.prompt.replace(_QUESTION, instance.question)
        suffix = self.config.suffix
        if suffix is None:
            suffix = _SUFFIXES.get(instance.kind, SHORT)
        return super().render(replace(instance, question=asked)) + suffix

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Compare short and free answers as the config says, others for equality."""
        if instance.kind in (AnswerKind.YES_NO, AnswerKind.CHOICE):
            return super().score(answer, instance)
        if answer.status is not AnswerStatus.OK or answer.value is None:
            return Score(0.0, False)
        value = _SCORES[self.config.score](answer.value, instance.references)
        return Score(value, value >= _CORRECT)

    def _table(self) -> Table:
        path = self.config.path
        if path.is_dir():
            file = folders.metadata(path)
            return folders.class_folders(path) if file is None else read_table(file)
        if not path.is_file():
            raise DataError(
                f"{path}: no such file or directory; paths are relative to the current directory, "
                f"{Path.cwd()}"
            )
        return read_table(path)

    def _questions(self) -> list[Question]:
        config, table = self.config, self._table()
        if table.path.is_file():
            columns = named(table, config.columns, config.question)
            folder, asked = table.path.parent, config.question
        else:
            columns, folder = folders.CLASSES, table.path
            asked = config.question or folders.WHICH
        return read_questions(
            table,
            columns,
            folder=config.images or folder,
            asked=asked,
            separator=config.separator,
            kind=config.kind,
            answers=config.answers,
        )


def _image(picture: Picture) -> Image:
    if picture.path is None:
        return Image.from_bytes(lambda: picture.content, picture.where)
    return Image.from_file(picture.path)


def _one_cluster(
    question: Question, images: tuple[Image, ...], known: dict[str, tuple[str, str]]
) -> None:
    for image in images[:1]:
        cluster, where = known.setdefault(image.digest, (question.cluster, question.where))
        if cluster != question.cluster:
            raise DataError(
                f"{question.where}: its picture is in the cluster {question.cluster!r} here and in "
                f"{cluster!r} in {where}; questions about one picture are not independent, so they "
                "must be in one"
            )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("custom", Custom)
