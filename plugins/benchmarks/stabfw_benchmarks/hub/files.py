"""Data sets that are files on the hub: a JSON or CSV file of questions, and pictures in a zip."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile, ZipFile

from stabfw.components import Image
from stabfw.errors import DataError

from stabfw_benchmarks.hub import HubBenchmark, Split


class FileBenchmark(HubBenchmark):
    """Reads its files itself: `datasets` would unpack the archive and guess at the rest.

    The pictures are read out of the archive, or from where it was unpacked beside it. Each row
    has its picture under `image`.

    Attributes:
        archive: The zip file.
        picture: The column that names a picture in it.
    """

    archive: ClassVar[str]
    picture: ClassVar[str]

    def rows(self, split: Split, columns: tuple[str, ...]) -> Any:
        """Open a file of questions.

        Raises:
            DataError: If it is not there, is no such file or lacks a column.
        """
        folder = self._folder()
        path = folder / split.split
        if not path.is_file():
            raise DataError(f"{path}: no such file; get it with: {self.download}")
        rows = _read_csv(path) if path.suffix == ".csv" else _read_json(path)
        for number, row in enumerate(rows):
            if lacking := [column for column in columns if column not in row]:
                raise DataError(
                    f"{path}: row {number} lacks {', '.join(lacking)}; it has {', '.join(row)}"
                )
        return FileRows(rows, Archive(folder, self.archive, self.download), self.picture)


class FileRows:
    """Rows of a file, each with its picture."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], archive: Archive, picture: str) -> None:
        self._rows = rows
        self._archive = archive
        self._picture = picture

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._rows[number]
        return {**row, "image": self._archive.image(str(row[self._picture]))}

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return [row[name] for row in self._rows]


class Archive:
    """Pictures by name, packed or unpacked."""

    def __init__(self, folder: Path, name: str, download: str) -> None:
        self._path = folder / name
        self._download = download
        self._folders = [folder / Path(name).stem, folder]
        self._zip: ZipFile | None = None
        self._members: dict[int, dict[str, str]] = {}

    def image(self, name: str) -> Image:
        """Refer to a picture.

        Raises:
            DataError: If there is none of that name.
        """
        for folder in self._folders:
            # A name is not trusted to stay in the folder.
            path = (folder / name).resolve()
            if path.is_relative_to(folder.resolve()) and path.is_file():
                return Image.from_file(path)
        member = self._member(name)
        return Image.from_bytes(lambda: self._read(member), f"{name} in {self._path}")

    def _member(self, name: str) -> str:
        """The member whose path ends with a name, whatever folder it was packed in."""
        parts = len(Path(name).parts)
        if parts not in self._members:
            self._members[parts] = {
                "/".join(member.split("/")[-parts:]): member for member in self._opened().namelist()
            }
        try:
            return self._members[parts][name]
        except KeyError:
            raise DataError(
                f"{self._path}: no picture {name} in it; is the archive complete? "
                f"Get it with: {self._download}"
            ) from None

    def _opened(self) -> ZipFile:
        if self._zip is None:
            try:
                # Kept open: to read the list of a large archive takes a second.
                self._zip = ZipFile(self._path)
            except OSError as error:
                raise DataError(
                    f"{self._path}: cannot read the pictures: {error.strerror}; get them with: "
                    f"{self._download} (packed, or unpacked to {self._folders[0]})"
                ) from error
            except BadZipFile as error:
                raise DataError(
                    f"{self._path}: not a zip file ({error}); get it again: {self._download}"
                ) from error
        return self._zip

    def _read(self, member: str) -> bytes:
        try:
            return self._opened().read(member)
        except (OSError, BadZipFile) as error:
            raise DataError(f"{self._path}: cannot read {member}: {error}") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: expected a list of objects, one a question")
    return content
