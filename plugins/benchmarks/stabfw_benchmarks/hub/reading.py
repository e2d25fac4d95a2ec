"""Rows of a data set, read by the package `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from stabfw.components import Image
from stabfw.errors import DataError

if TYPE_CHECKING:
    from stabfw_benchmarks.hub import Split


class Rows:
    """The rows of a split; pictures stay on the disk until they are looked at."""

    def __init__(self, folder: Path, split: Split, columns: tuple[str, ...], name: str) -> None:
        datasets.disable_progress_bars()
        where = f"{name} in {folder}"
        try:
            table = datasets.load_dataset(
                str(folder), split.config or None, split=split.split, token=False
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            config = f", configuration {split.config!r}" if split.config else ""
            raise DataError(
                f"{where}: cannot read the split {split.split!r}{config}: {error}"
            ) from error
        lacking = [column for column in columns if column not in table.column_names]
        if lacking:
            raise DataError(
                f"{where}: the split {split.split!r} lacks {', '.join(lacking)}; it has "
                f"{', '.join(table.column_names)}"
            )
        self._single, self._several = [], []
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
                self._single.append(column)
            elif isinstance(getattr(feature, "feature", None), datasets.Image):
                several = datasets.List(datasets.Image(decode=False))
                table = table.cast_column(column, several)
                self._several.append(column)
        self._table = table
        self._pictures = {
            column: table.select_columns(column) for column in (*self._single, *self._several)
        }

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = dict(self._table[number])
        for column in self._single:
            row[column] = self._image(column, number, None) if row[column] else None
        for column in self._several:
            row[column] = [
                self._image(column, number, place) for place in range(len(row[column] or []))
            ]
        return row

    def column(self, name: str) -> list[Any]:
        """All values of a column without pictures."""
        return list(self._table[name])

    def _image(self, column: str, number: int, place: int | None) -> Image:
        def read() -> bytes:
            value = self._pictures[column][number][column]
            stored = value if place is None else value[place]
            if stored["bytes"] is not None:
                return bytes(stored["bytes"])
            return Path(stored["path"]).read_bytes()

        return Image.from_bytes(read, f"{column} of row {number}")
