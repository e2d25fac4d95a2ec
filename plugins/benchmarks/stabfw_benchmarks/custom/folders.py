"""Directories of pictures: with a table beside them, or one folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stabfw.errors import DataError

from stabfw_benchmarks.custom.columns import Columns
from stabfw_benchmarks.custom.tables import READERS, Row, Table, refuse

#: Asked of pictures that lie in class folders, unless there is a better question.
WHICH = "Which of these does the picture show?"
#: The columns that class folders amount to.
CLASSES = Columns(image="image", answer="class", choices="classes", slices=("class",))

_METADATA = "metadata"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def metadata(folder: Path) -> Path | None:
    """The table in a directory of pictures, named as the package `datasets` has it.

    Raises:
        DataError: If there are several.
    """
    found = [file for suffix in READERS if (file := folder / f"{_METADATA}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(
            f"{folder}: has {' and '.join(file.name for file in found)}; give `path:` the one "
            "to use"
        )
    return found[0] if found else None


def class_folders(folder: Path) -> Table:
    """A table of the pictures in a directory's folders, each of which is a class.

    Raises:
        DataError: If there are not two folders at least, or something else lies among them.
    """
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    classes = [entry for entry in entries if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder}: expected {_METADATA}.jsonl, .csv, .tsv or .parquet beside the pictures, or "
            "at least two folders of pictures, each named like the class that they show; to use a "
            "table of another name, give `path:` that file"
        )
    names = [entry.name.replace("_", " ") for entry in classes]
    rows, problems = [], [_stray(entry) for entry in entries if not entry.is_dir()]
    for entry, name in zip(classes, names, strict=True):
        files = list(_files(entry))
        pictures = [file for file in files if file.suffix.lower() in _PICTURES]
        problems += [_stray(file) for file in files if file not in pictures]
        if not files:
            problems.append(f"{entry}: has no pictures; remove the folder, or fill it")
        for file in pictures:
            values = {"image": str(file.relative_to(folder)), "class": name, "classes": names}
            rows.append(Row(str(file), values))
    if problems:
        refuse(problems)
    return Table(folder, ("image", "class", "classes"), tuple(rows), typed=True)


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden:
            yield file


def _stray(file: Path) -> str:
    if file.suffix.lower() in (".dcm", ".dicom"):
        return f"{file}: DICOM; choose a window and convert it to PNG (pydicom, or dcm2img)"
    return (
        f"{file}: neither a class folder nor a picture in it ({', '.join(_PICTURES)}); move it, or "
        "convert it"
    )
