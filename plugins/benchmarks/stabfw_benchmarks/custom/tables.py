"""Rows of a user's file, each with its place in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from stabfw.errors import DataError

_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: File and line, or file and row where it has no lines, both counted from 1.
        values: Cells by column.
    """

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Attributes:
        path: The file, or the directory that was taken for one.
        columns: Names of the columns.
        rows: At least one.
        typed: Whether cells can be lists and numbers, and not only text.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    typed: bool


def read_table(path: Path) -> Table:
    """Read a file as its suffix says.

    Raises:
        DataError: If it is not such a file, or has no rows.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: files of the kind '{path.suffix}' are not read; give one of "
            f"{', '.join(READERS)}, or a directory of pictures"
            + (" (JSON Lines: one object a line)" if path.suffix.lower() == ".json" else "")
        )
    table = reader(path)
    if not table.rows:
        raise DataError(f"{path}: has no rows")
    return table


def refuse(problems: Sequence[str]) -> NoReturn:
    """Raise one error that lists problems, the first ones if there are many."""
    shown = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        shown.append(f"… and {len(problems) - _SHOWN} more")
    head = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    raise DataError("\n".join([*head, *shown]))


def _json_lines(path: Path) -> Table:
    rows, problems = [], []
    # Text may hold other characters that `splitlines` takes for the end of a line.
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            problems.append(f"{path}:{number}: not valid JSON: {error}: {line.strip()[:60]}")
            continue
        if isinstance(values, dict):
            rows.append(Row(f"{path}:{number}", values))
        else:
            problems.append(f"{path}:{number}: not a JSON object: {line.strip()[:60]}")
    if problems:
        refuse(problems)
    columns = dict.fromkeys(name for row in rows for name in row.values)
    return Table(path, tuple(columns), tuple(rows), typed=True)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null, or leave the row out")


def _separated(path: Path, delimiter: str) -> Table:
    lines = io.StringIO(_decoded(path), newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    records = _records(path, reader)
    _, header = next(records, (0, []))
    names = [name.strip() for name in header]
    if len(names) == 1 and (other := next((c for c in ";\t," if c in names[0]), None)):
        raise DataError(
            f"{path}:1: one column only, {names[0][:60]!r}; if {other!r} separates the columns, "
            "save the file with commas, or with tabs as .tsv"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}:1: there are two columns {twice[0]!r}; rename one")
    rows, problems = [], []
    for number, cells in records:
        if not any(cells):
            continue
        if len(cells) != len(names):
            problems.append(
                f"{path}:{number}: {len(cells)} cells where the first line names {len(names)} "
                "columns; quote cells that contain the separator"
            )
            continue
        rows.append(Row(f"{path}:{number}", dict(zip(names, cells, strict=True))))
    if problems:
        refuse(problems)
    return Table(path, tuple(name for name in names if name), tuple(rows), typed=False)


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Give each record with its first line; a quoted cell may go over several."""
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{number}: not readable as a table: {error}") from error
        yield number, record


def _parquet(path: Path) -> Table:
    if find_spec("pyarrow") is None:
        raise DataError(f'{path}: Parquet needs the package pyarrow: pip install "stabfw[parquet]"')
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        values = table.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error
    rows = (Row(f"{path}, row {number}", row) for number, row in enumerate(values, 1))
    return Table(path, tuple(table.column_names), tuple(rows), typed=True)


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8: save the file as "
            "UTF-8"
        ) from error


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".jsonl": _json_lines,
    ".csv": lambda path: _separated(path, ","),
    ".tsv": lambda path: _separated(path, "\t"),
    ".parquet": _parquet,
}
