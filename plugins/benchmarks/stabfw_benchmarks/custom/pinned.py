"""Sets whose files are pinned: what `stabfw canary` exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from stabfw.components import file_digest
from stabfw.errors import DataError

_MANIFEST = "canary.json"


def pins(path: Path) -> Mapping[str, str] | None:
    """The sha256 of each file of the set that a table belongs to; None if it is no such set.

    Args:
        path: The table.

    Raises:
        DataError: The manifest beside it cannot be read, or the table is not the one it pins.
    """
    manifest = path.parent / _MANIFEST
    if not path.is_file() or not manifest.is_file():
        return None
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): str(digest) for name, digest in content["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{manifest}: not readable ({error}); export the set again") from error
    if files.get(path.name) != file_digest(path):
        raise _differs(path)
    return files


def check(picture: Path, digest: str, table: Path, files: Mapping[str, str]) -> None:
    """Refuse a picture that is not the one that was exported.

    Raises:
        DataError: It differs, or is not part of the set.
    """
    try:
        name = picture.relative_to(table.parent).as_posix()
    except ValueError:
        name = picture.as_posix()
    if files.get(name) != digest:
        raise _differs(picture)


def _differs(path: Path) -> DataError:
    return DataError(
        f"{path}: differs from what {_MANIFEST} pins, so this is another test than the one that "
        f"was exported; bring it back, export anew, or remove {_MANIFEST} to use it as plain data"
    )
