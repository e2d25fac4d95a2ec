"""Results at rest: one JSON file that reads back as exactly what was written."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from stabfw.components.files import write_atomic
from stabfw.errors import DataError
from stabfw.report.results import Results

SCHEMA = 6
_MARK = "stabfw_results"


def dump_results(results: Results) -> str:
    """Write results as JSON text; equal results give equal text."""
    document = {_MARK: SCHEMA, "results": encode(results)}
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)


def save_results(results: Results, path: Path) -> None:
    """Write results to a file; a reader sees the old file or the new one, never a torn one.

    `facts` and `report` hold whatever a model or an accelerator said of itself; what is not a
    JSON value there is written as a number, a list or a text, and reads back as such.

    Args:
        results: The results.
        path: The file; its directory is made.

    Raises:
        OSError: If it cannot be written.
    """
    write_atomic(path, dump_results(results).encode())


def load_results(path: Path) -> Results:
    """Read results back.

    Args:
        path: A file written by `save_results`.

    Returns:
        The results.

    Raises:
        DataError: If the file is missing, damaged, of another schema or not stabfw's.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the results: {error.strerror}; run `stabfw run` first"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON ({error}); run `stabfw run` to write it again"
        ) from error
    version = document.get(_MARK) if isinstance(document, dict) else None
    if version is None:
        raise DataError(f"{path}: not a results file of stabfw (no {_MARK!r} in it)")
    if version != SCHEMA:
        raise DataError(
            f"{path}: results schema {version!r}, but this stabfw reads {SCHEMA}; "
            "run `stabfw run` again, it reuses the stored answers"
        )
    try:
        results = _decode(document.get("results"), Results, "results")
    except _MismatchError as error:
        raise DataError(f"{path}: {error}; run `stabfw run` to write it again") from error
    assert isinstance(results, Results)
    return results


class _MismatchError(Exception):
    """A value does not have the type that its field declares."""


def encode(value: object) -> Any:
    """Turn dataclasses, enumerations and what they hold into JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [encode(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return encode(item())
    return str(value)


def _decode(value: Any, kind: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is object or kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        (kind,) = (k for k in typing.get_args(kind) if k is not type(None))
        return _decode(value, kind, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list")
        item = typing.get_args(kind)[0]
        return tuple(_decode(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _expect(isinstance(value, dict), where, "an object")
        item = typing.get_args(kind)[1]
        return {key: _decode(v, item, f"{where}.{key}") for key, v in value.items()}
    if is_dataclass(kind):
        return _decode_dataclass(value, kind, where)
    if issubclass(kind, enum.Enum):
        known = [member.value for member in kind]
        _expect(value in known, where, f"one of {known}")
        return kind(value)
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, "a number")
        return float(value)
    _expect(type(value) is kind, where, f"of type {kind.__name__}")
    return value


def _decode_dataclass(value: Any, kind: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    if names != value.keys():
        missing, foreign = sorted(names - value.keys()), sorted(value.keys() - names)
        raise _MismatchError(f"{where} lacks {missing} and has unknown {foreign}")
    return kind(**{name: _decode(value[name], hints[name], f"{where}.{name}") for name in names})


def _expect(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise _MismatchError(f"{where} is not {what}")
