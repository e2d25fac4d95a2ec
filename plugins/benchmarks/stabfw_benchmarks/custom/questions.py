"""From rows to questions, or to everything that is wrong with them."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stabfw.components import AnswerKind, normalised
from stabfw.errors import DataError

from stabfw_benchmarks.custom.columns import Columns
from stabfw_benchmarks.custom.tables import Row, Table, refuse

#: How the right one of several options is written down.
Answers = Literal["text", "letter", "index", "number"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Picture:
    """A picture in a file, or stored in the table itself.

    Attributes:
        where: For messages.
        path: The file.
        content: The stored bytes.
    """

    where: str
    path: Path | None = None
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Question:
    """A row that was understood.

    Attributes:
        where: Where the row is.
        pictures: At least one.
        text: The question.
        golds: The right answers as written; once read, as `references` of an instance.
        options: To choose from; none where the answer is free.
        kind: How the answer looks.
        hint: Shown above the question.
        id: The user's own id, if there is one.
        cluster: Whose rows are not independent, if that is known.
        group: Scored together.
        slices: By which results are broken down.
    """

    where: str
    pictures: tuple[Picture, ...]
    text: str
    golds: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: AnswerKind = AnswerKind.SHORT
    hint: str = ""
    id: str = ""
    cluster: str = ""
    group: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)


def read_questions(
    table: Table,
    columns: Columns,
    *,
    folder: Path,
    asked: str,
    separator: str,
    kind: AnswerKind | None,
    answers: Answers | None,
) -> list[Question]:
    """Understand all rows of a table.

    Args:
        table: The table.
        columns: Which column holds what.
        folder: To which names of pictures are relative.
        asked: The question where no column holds it.
        separator: Between several values in one cell of text.
        kind: How answers look; None to tell it from the data.
        answers: How the right option is written down; None to tell it from the data.

    Raises:
        DataError: With every row that cannot be understood.
    """
    reader = _Reader(table, columns, folder, asked, separator)
    questions, problems = [], []
    for row in table.rows:
        try:
            questions.append(reader.question(row))
        except DataError as error:
            problems.append(str(error))
    if problems:
        refuse(problems)
    return _kinds(_resolved(questions, columns.answer, answers), columns.answer, kind)


class _Reader:
    """Reads the cells of a table."""

    def __init__(
        self, table: Table, columns: Columns, folder: Path, asked: str, separator: str
    ) -> None:
        self._typed = table.typed
        self._columns = columns
        self._folder = folder
        self._asked = asked
        self._separator = separator
        self._ids: dict[str, str] = {}
        self._there: dict[Path, bool] = {}

    def question(self, row: Row) -> Question:
        """Understand a row, all but what its answer means.

        Raises:
            DataError: With file, line and column of what is wrong.
        """
        columns = self._columns
        return Question(
            where=row.where,
            pictures=tuple(self._pictures(row)),
            text=self._asked or self._needed(row, columns.question),
            golds=self._golds(row),
            options=self._options(row),
            hint=self._text(row, columns.hint),
            id=self._id(row),
            cluster=self._needed(row, columns.cluster) if columns.cluster else "",
            group=self._text(row, columns.group),
            slices={name: self._text(row, name) or "none" for name in columns.slices},
        )

    def _text(self, row: Row, column: str) -> str:
        return _text(row, column, row.values.get(column)) if column else ""

    def _needed(self, row: Row, column: str) -> str:
        if not (text := self._text(row, column)):
            raise _problem(row, column, "is empty; fill it in, or leave the row out")
        return text

    def _id(self, row: Row) -> str:
        if not self._columns.id:
            return ""
        own = self._needed(row, self._columns.id)
        if (first := self._ids.setdefault(own, row.where)) != row.where:
            raise _problem(
                row,
                self._columns.id,
                f"{own[:60]!r} is the id of {first} already; ids must differ (or name no id "
                "column in `columns`)",
            )
        return own

    def _golds(self, row: Row) -> tuple[str, ...]:
        column = self._columns.answer
        values = self._several(row.values.get(column))
        texts = [_yes_no(row, column, value) for value in values]
        if not texts or not all(map(normalised, texts)):
            raise _problem(row, column, "is empty; fill it in, or leave the row out")
        return tuple(dict.fromkeys(texts))

    def _options(self, row: Row) -> tuple[str, ...]:
        columns = self._columns
        if columns.lettered:
            where = columns.lettered[0]
            texts = [self._text(row, name) for name in columns.lettered]
            while texts and not texts[-1]:
                texts.pop()
        else:
            where = str(columns.choices or "")
            value = row.values.get(where)
            if isinstance(value, dict):
                if list(value) != list(LETTERS[: len(value)]):
                    raise _problem(row, where, f"has the keys {', '.join(value)}, not A, B, C, …")
                value = list(value.values())
            texts = [_text(row, where, item) for item in self._several(value)]
        if not texts:
            return ()
        folded = [normalised(text) for text in texts]
        if not all(folded):
            raise _problem(row, where, f"an option is empty: {' | '.join(texts)}")
        if len(texts) == 1:
            how = "" if self._typed else f"; {self._separator!r} goes between options"
            raise _problem(row, where, f"only one option, {texts[0][:60]!r}{how}")
        if len({*folded}) < len(folded):
            raise _problem(row, where, f"two options are the same: {' | '.join(texts)}")
        return tuple(texts)

    def _several(self, value: Any) -> list[Any]:
        """The values of a cell: a list, a list written as text, or text with separators."""
        if isinstance(value, list | tuple):
            return list(value)
        if isinstance(value, str):
            if value.lstrip().startswith("[") and (items := _listed(value)) is not None:
                return items
            if not self._typed:
                parts = [part.strip() for part in value.split(self._separator)]
                return [] if parts == [""] else parts
        return [] if _empty(value) else [value]

    def _pictures(self, row: Row) -> Iterator[Picture]:
        found = False
        for column in self._columns.images:
            for value in self._several(row.values.get(column)):
                if not _empty(value):
                    found = True
                    yield self._picture(row, column, value)
        if not found:
            raise _problem(row, self._columns.images[0], "names no picture")

    def _picture(self, row: Row, column: str, value: Any) -> Picture:
        if isinstance(value, bytes):
            return Picture(f"{row.where}: column {column!r}", content=value)
        if isinstance(value, dict):
            # As the package `datasets` stores them.
            if isinstance(content := value.get("bytes"), bytes):
                return Picture(f"{row.where}: column {column!r}", content=content)
            value = value.get("path")
        name = _text(row, column, value)
        path = self._folder / name
        if path not in self._there:
            self._there[path] = _is_file(path)
        if not self._there[path]:
            raise _problem(row, column, _not_there(name, path))
        return Picture(f"{row.where}: {path}", path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _not_there(name: str, path: Path) -> str:
    if name.startswith(("http://", "https://")):
        return f"{name[:80]!r} is an address; nothing is downloaded: save it, and name the file"
    if len(name) > 255:
        return f"{name[:40]!r}… is no file name; save the picture as a file, and name that"
    slashes = "; use / and not \\ in names" if "\\" in name else ""
    return (
        f"no such picture: {path}{slashes} (names are relative to `images:`, by default the "
        "folder of the table)"
    )


def _problem(row: Row, column: str, what: str) -> DataError:
    return DataError(f"{row.where}: column {column!r}: {what}")


def _empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        # How spreadsheets and data frames write what is missing.
        or (isinstance(value, str) and value.strip().lower() in ("", "nan", "<na>"))
    )


def _text(row: Row, column: str, value: Any) -> str:
    if _empty(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        # Data frames turn whole numbers into these where some are missing.
        value = int(value)
    if isinstance(value, str | int | float):
        return str(value).strip()
    shown = json.dumps(value, default=str)[:60]
    raise _problem(row, column, f"{shown} is a {type(value).__name__}, not text")


def _yes_no(row: Row, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return _YES_NO[not value]
    return _text(row, column, value)


def _listed(text: str) -> list[Any] | None:
    """A list as JSON, or as Python prints it, which is what data frames write into CSV."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return None


# What an answer means


def _by_text(gold: str, options: Sequence[str]) -> int | None:
    folded = [normalised(option) for option in options]
    return folded.index(normalised(gold)) if normalised(gold) in folded else None


def _by_letter(gold: str, options: Sequence[str]) -> int | None:
    found = _LETTER.fullmatch(gold)
    place = LETTERS.index(found[1].upper()) if found else len(options)
    return place if place < len(options) else None


def _by_index(gold: str, options: Sequence[str], first: int = 0) -> int | None:
    if not re.fullmatch(r"\d{1,3}", gold):
        return None
    place = int(gold) - first
    return place if 0 <= place < len(options) else None


_MEANINGS: Mapping[Answers, Callable[[str, Sequence[str]], int | None]] = {
    "text": _by_text,
    "letter": _by_letter,
    "index": _by_index,
    "number": lambda gold, options: _by_index(gold, options, first=1),
}


def _resolved(questions: list[Question], column: str, answers: Answers | None) -> list[Question]:
    """Turn the golds of questions with options into these, in one way for all of them."""
    chosen = [question for question in questions if question.options]
    if not chosen:
        return questions
    meanings = {
        meaning: [[place(gold, q.options) for gold in q.golds] for q in chosen]
        for meaning, place in _MEANINGS.items()
        if answers in (None, meaning)
    }
    lacking = {
        meaning: sum(None in places for places in found) for meaning, found in meanings.items()
    }
    best = min(lacking, key=lambda meaning: lacking[meaning])
    if lacking[best]:
        refuse(
            [
                f"{q.where}: column {column!r}: {' | '.join(q.golds)[:60]!r} is not among the "
                f"options, read as {best}: {' | '.join(q.options)[:120]}"
                for q, places in zip(chosen, meanings[best], strict=True)
                if None in places
            ]
        )
    for meaning, found in meanings.items():
        if lacking[meaning] or found == meanings[best]:
            continue
        pairs = zip(chosen, meanings[best], found, strict=True)
        q, one, other = next(item for item in pairs if item[1] != item[2])
        raise DataError(
            f"{q.where}: column {column!r}: {' | '.join(q.golds)[:60]!r} means "
            f"{_option(q, one)} as {best} and {_option(q, other)} as {meaning}, and all rows can "
            f"be read either way: say `answers: {best}` or `answers: {meaning}` (text, letter, "
            "index from 0, number from 1)"
        )
    golds = {
        question.where: tuple(question.options[place] for place in places if place is not None)
        for question, places in zip(chosen, meanings[best], strict=True)
    }
    return [replace(q, golds=golds.get(q.where, q.golds)) for q in questions]


def _option(question: Question, places: Sequence[int | None]) -> str:
    return " | ".join(repr(question.options[place]) for place in places if place is not None)[:60]


def _kinds(questions: list[Question], column: str, kind: AnswerKind | None) -> list[Question]:
    """Give each question its kind, and its golds in the form in which answers are read."""
    told, problems = [], []
    free = [question for question in questions if not question.options]
    yes_no = all(normalised(gold) in _YES_NO for question in free for gold in question.golds)
    for question in questions:
        own = kind or (
            AnswerKind.CHOICE
            if question.options
            else AnswerKind.YES_NO
            if yes_no
            else AnswerKind.SHORT
        )
        if own is AnswerKind.CHOICE:
            if problem := _no_choice(question):
                problems.append(f"{question.where}: {problem}")
                continue
            letters = tuple(LETTERS[question.options.index(gold)] for gold in question.golds)
            told.append(replace(question, kind=own, golds=letters))
            continue
        # A question with options can be asked without them.
        references = tuple(dict.fromkeys(map(normalised, question.golds)))
        if own is AnswerKind.YES_NO and (wrong := {*references} - {*_YES_NO}):
            problems.append(
                f"{question.where}: column {column!r}: {min(wrong)[:60]!r} is neither yes nor no; "
                "correct it, or use `kind: short`"
            )
        told.append(replace(question, kind=own, options=(), golds=references))
    if problems:
        refuse(problems)
    return told


def _no_choice(question: Question) -> str:
    if not question.options:
        return (
            "no options, but `kind: choice` needs some; name their column in "
            "`columns: {choices: …}`"
        )
    if (count := len(question.options)) > len(LETTERS):
        return f"{count} options, more than letters; ask for a word with `kind: short`"
    return ""
