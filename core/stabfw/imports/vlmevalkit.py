"""Files of VLMEvalKit: what its evaluation writes beside the predictions, a row a question.

Read in its source, at e8e78f0. The pictures are taken out of these files before they are written,
and prompts are made by the code of each model, so only question and options can be verified.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from stabfw.components import AnswerStatus, Choice, extract_choice
from stabfw.errors import DataError
from stabfw.imports.samples import Log, Sample, fingerprint

PATTERNS = ("*.xlsx", "*.tsv", "*.json")
#: Columns that its evaluations score a row in.
_SCORES = ("hit", "score", "eval_score", "verifier_match")
#: Columns that hold what was read out of a prediction.
_READ = ("extracted", "eval_pred")
_FAILED = "Failed to obtain answer"
#: It then takes an option at random, or counts the row as wrong.
_UNREAD = ("randomly generate one", "Failed in Prefetch")
_UNKNOWN = "Unknown"
_CELL_LIMIT = 10**9


def recognises(row: Mapping[str, Any]) -> bool:
    """Say whether a row is of this form."""
    return {"index", "prediction"} <= row.keys()


def task_of(path: Path) -> str:
    """What was asked: the file's name without the model, which its folder is named after."""
    for folder in path.absolute().parents:
        if folder.name and path.stem.startswith(folder.name + "_"):
            return path.stem.removeprefix(folder.name + "_")
    return path.stem


def read(path: Path) -> Log:
    """Read a file.

    Raises:
        DataError: If it cannot be read or is not of this form.
    """
    samples = tuple(_sample(row, f"{path}:{number}") for number, row in rows(path))
    task = task_of(path)
    model = path.stem.removesuffix(task).rstrip("_")
    return Log(task, {"harness": "vlmevalkit", **({"model": model} if model else {})}, samples)


def rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read a table with the line or row number of each entry.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        if path.suffix == ".xlsx":
            return _sheet(path)
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise DataError(f"{path}: not a list of objects, as VLMEvalKit writes it")
            return list(enumerate(found, 1))
        csv.field_size_limit(_CELL_LIMIT)
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            return [(reader.line_num, dict(row)) for row in reader]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error


def _sheet(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DataError(
            f"{path}: reading xlsx needs openpyxl: install it with "
            "`pip install 'stabfw[vlmevalkit]'`"
        ) from error
    from zipfile import BadZipFile

    try:
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
    except (BadZipFile, KeyError) as error:
        raise DataError(f"{path}: not a readable xlsx file: {error}") from error
    lines = sheet.iter_rows(values_only=True)
    names = [str(name) for name in next(lines, ())]
    return [
        (number, dict(zip(names, line, strict=False)))
        for number, line in enumerate(lines, 2)
        if any(value is not None for value in line)
    ]


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    if not recognises(row):
        raise DataError(f"{where}: not a row of VLMEvalKit: lacks index or prediction")
    known = {name: value for name, value in row.items() if not _blank(value)}
    text = str(known.get("prediction", ""))
    shown = [name for name in ascii_uppercase if name in known]
    answer, status = _answer(known, text, shown)
    asked = [str(known.get("question", "")), *(f"{name}. {known[name]}" for name in shown)]
    # Pictures are named by the file, not held in it.
    picture = known.get("image_path")
    return Sample(
        where=where,
        id=str(row["index"]),
        question="\n".join(asked),
        text=text,
        answer=answer,
        gold=(str(known.get("answer", "")),),
        scores={name: _number(known[name]) for name in _SCORES if name in known},
        content={"question": fingerprint([known.get("hint"), *asked])} if asked[0] else {},
        cluster=str(row["index"] if picture is None else picture),
        status=status,
    )


def _answer(row: Mapping[str, Any], text: str, shown: list[str]) -> tuple[str | None, str]:
    if text.startswith(_FAILED):
        return None, "error"
    if any(mark in str(row.get("log", "")) for mark in _UNREAD):
        return None, "invalid"
    for name in _READ:
        if name in row:
            unknown = row[name] == _UNKNOWN
            return (None, "invalid") if unknown else (str(row[name]), "ok")
    if shown:
        # A judge may have understood more than can be read here, so nothing is discarded.
        read = extract_choice(text, tuple(Choice(name, str(row[name])) for name in shown))
        if read.status is AnswerStatus.OK:
            return read.value, "ok"
    return text, "ok"


def _blank(value: object) -> bool:
    # JSON holds NaN where a table had nothing, which is unequal to itself.
    return value is None or value == "" or value != value


def _number(value: object) -> object:
    """The number or truth value that a table may hold as text."""
    if not isinstance(value, str):
        return value
    if value in ("True", "False"):
        return value == "True"
    try:
        return float(value)
    except ValueError:
        return value
