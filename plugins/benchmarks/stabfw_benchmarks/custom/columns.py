"""Which column of a table holds what."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from stabfw.errors import DataError

from stabfw_benchmarks.custom.tables import Table

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERED = re.compile(r"(?:(?:choice|option)[ _-]?)?([a-z])", re.IGNORECASE)
#: Names that are understood without being asked for; the first one of each is preferred.
KNOWN: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "query", "prompt", "instruction"),
    "image": (
        *("image", "images", "image_path", "image_file", "img", "picture"),
        *("file_name", "file_names", "filename"),
    ),
    "answer": ("answer", "answers", "gold", "label", "target", "ground_truth", "reference"),
    "choices": ("choices", "options"),
    "hint": ("hint", "context"),
    "id": ("id", "qid", "question_id", "uid", "index"),
    "cluster": ("cluster", "cluster_id", "patient", "patient_id"),
    "group": ("group", "group_id"),
}
_REQUIRED = ("question", "image", "answer")


class Columns(BaseModel):
    """Which column holds what. A column that is not named is not used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(default="", description="The question; empty for one that all share.")
    image: str | tuple[str, ...] = Field(
        description="The picture's file, or several of them; a list of columns, where each is one."
    )
    answer: str = Field(description="The right answer, or several.")
    choices: str | tuple[str, ...] = Field(
        default=(), description="Options to choose from; or a list of columns, one each."
    )
    hint: str = Field(default="", description="Text to be shown above the question.")
    id: str = Field(default="", description="What identifies a question; no two may have the same.")
    cluster: str = Field(
        default="",
        description="Whose rows are not independent, such as a patient; the picture by default.",
    )
    group: str = Field(default="", description="Questions that are scored together.")
    slices: tuple[str, ...] = Field(default=(), description="By which results are broken down.")

    @property
    def images(self) -> tuple[str, ...]:
        """The columns of pictures."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def lettered(self) -> tuple[str, ...]:
        """The columns that hold one option each."""
        return () if isinstance(self.choices, str) else self.choices


def named(table: Table, columns: Columns | None, asked: str) -> Columns:
    """Return the columns to use, after making sure that they exist.

    Args:
        table: The table.
        columns: Those that the user named; None to find them by their names.
        asked: A question that all rows share; empty if each has its own.

    Raises:
        DataError: If one is missing, or more than one could be meant.
    """
    if columns is None:
        columns = _found(table, asked)
    if not columns.question and not asked:
        raise DataError(
            f"{table.path}: no column holds the question: name it in `columns: {{question: …}}`, "
            f"or give one `question:` that is asked of all; {_listed(table)}"
        )
    wanted = [columns.question, *columns.images, columns.answer, columns.hint, columns.id]
    choices = [columns.choices] if isinstance(columns.choices, str) else columns.lettered
    wanted += [*choices, columns.cluster, columns.group, *columns.slices]
    if absent := [name for name in wanted if name and name not in table.columns]:
        raise DataError(f"{table.path}: there is no column {absent[0]!r}; {_listed(table)}")
    return columns


def _found(table: Table, asked: str) -> Columns:
    values: dict[str, str | tuple[str, ...]] = {}
    for role, names in KNOWN.items():
        candidates = [column for column in table.columns if column.lower() in names]
        exact = [column for column in candidates if column.lower() == role]
        if role == "question" and asked:
            continue
        if len(candidates) > 1 and len(exact) != 1:
            raise DataError(
                f"{table.path}: {', '.join(map(repr, candidates))} could each be the {role}: say "
                f"which column is what, `columns: {{{role}: …}}`; {_listed(table)}"
            )
        if candidates:
            values[role] = (exact or candidates)[0]
    if "choices" not in values and (lettered := _lettered(table)):
        values["choices"] = lettered
    required = [role for role in _REQUIRED if role != "question" or not asked]
    if absent := [role for role in required if role not in values]:
        example = ", ".join(f"{role}: {values.get(role, '…')}" for role in required)
        raise DataError(
            f"{table.path}: no column is called like the {' or the '.join(absent)}: say which it "
            f"is, `columns: {{{example}}}`; {_listed(table)}"
        )
    return Columns.model_validate(values)


def _lettered(table: Table) -> tuple[str, ...]:
    """Columns such as A, B, C or choice_a, choice_b."""
    by_letter: dict[str, list[str]] = {}
    for column in table.columns:
        if found := _LETTERED.fullmatch(column):
            by_letter.setdefault(found[1].upper(), []).append(column)
    columns = []
    for letter in _LETTERS:
        if len(by_letter.get(letter, ())) != 1:
            break
        columns += by_letter[letter]
    return tuple(columns) if len(columns) > 1 else ()


def _listed(table: Table) -> str:
    return f"it has {', '.join(table.columns)}"
