"""Rows of a data set, read by the package `datasets` or straight from Parquet files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from stabfw.components import Image
from stabfw.errors import DataError

if TYPE_CHECKING:
    from stabfw_benchmarks.hub import Split


def open_rows(
    folder: Path, split: Split, columns: tuple[str, ...], name: str, streaming: bool
) -> Rows:
    """Open a split; pictures stay on the disk until they are looked at.

    Args:
        folder: Where the data set lies.
        split: Which part of it.
        columns: Columns that it has to have.
        name: Of the data set, for messages.
        streaming: Read Parquet files in place, rather than a copy that `datasets` makes first.

    Raises:
        DataError: If it cannot be read, or lacks a column.
    """
    datasets.disable_progress_bars()
    where = f"{name} in {folder}"
    config = split.config or None
    try:
        if streaming:
            builder = datasets.load_dataset_builder(str(folder), config, token=False)
            files = (builder.config.data_files or {}).get(split.split)
            if files is None:
                raise ValueError(f"there is none; there are {', '.join(builder.config.data_files)}")
            rows: Rows = _Parquet([Path(file) for file in files])
        else:
            rows = _Table(
                datasets.load_dataset(str(folder), config, split=split.split, token=False)
            )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        at = f", configuration {split.config!r}" if split.config else ""
        raise DataError(f"{where}: cannot read the split {split.split!r}{at}: {error}") from error
    if lacking := [column for column in columns if column not in rows.features]:
        raise DataError(
            f"{where}: the split {split.split!r} lacks {', '.join(lacking)}; it has "
            f"{', '.join(rows.features)}"
        )
    return rows


class Rows(ABC):
    """The rows of a split, by number.

    Attributes:
        features: The type of each column, as `datasets` has it.
    """

    def __init__(self, features: Any) -> None:
        self.features = features
        self._single = [c for c, kind in features.items() if isinstance(kind, datasets.Image)]
        self._several = [
            column
            for column, kind in features.items()
            if isinstance(getattr(kind, "feature", None), datasets.Image)
        ]

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """All values of a column without pictures."""

    @abstractmethod
    def _row(self, number: int) -> dict[str, Any]:
        """A row, with pictures as `bytes` and `path`."""

    @abstractmethod
    def _cell(self, number: int, column: str) -> Any:
        """One value of a row, pictures as `bytes` and `path`."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._row(number)
        for column in self._single:
            row[column] = self._image(column, number, None) if row[column] else None
        for column in self._several:
            row[column] = [
                self._image(column, number, place) for place in range(len(row[column] or []))
            ]
        return row

    def _image(self, column: str, number: int, place: int | None) -> Image:
        def read() -> bytes:
            value = self._cell(number, column)
            stored = value if place is None else value[place]
            if stored["bytes"] is not None:
                return bytes(stored["bytes"])
            return Path(stored["path"]).read_bytes()

        return Image.from_bytes(read, f"{column} of row {number}")


class _Table(Rows):
    """Rows of a table that `datasets` made, on the disk too."""

    def __init__(self, table: Any) -> None:
        super().__init__(table.features)
        for column in self._single:
            table = table.cast_column(column, datasets.Image(decode=False))
        for column in self._several:
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
        self._table = table
        self._pictures = {
            column: table.select_columns(column) for column in (*self._single, *self._several)
        }

    def __len__(self) -> int:
        return len(self._table)

    def column(self, name: str) -> list[Any]:
        return list(self._table[name])

    def _row(self, number: int) -> dict[str, Any]:
        return dict(self._table[number])

    def _cell(self, number: int, column: str) -> Any:
        return self._pictures[column][number][column]


class _Parquet(Rows):
    """Rows of Parquet files, read by row group; the last group of each column is kept."""

    def __init__(self, files: list[Path]) -> None:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        try:
            self._files = [ParquetFile(file, memory_map=True) for file in files]
        except ArrowInvalid as error:
            raise ValueError(
                f"only Parquet files can be streamed, set `streaming: false` ({error})"
            ) from error
        super().__init__(datasets.Features.from_arrow_schema(self._files[0].schema_arrow))
        self._groups = [
            (file, group) for file in self._files for group in range(file.num_row_groups)
        ]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._kept: dict[str, tuple[int, Any]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def column(self, name: str) -> list[Any]:
        return [
            value
            for file in self._files
            for value in file.read(columns=[name]).column(name).to_pylist()
        ]

    def _row(self, number: int) -> dict[str, Any]:
        return {column: self._cell(number, column) for column in self.features}

    def _cell(self, number: int, column: str) -> Any:
        group = bisect_right(self._starts, number) - 1
        kept, values = self._kept.get(column, (-1, None))
        if kept != group:
            file, place = self._groups[group]
            values = file.read_row_group(place, columns=[column]).column(0)
            self._kept[column] = group, values
        return values[number - self._starts[group]].as_py()
