"""From a log to answers: which file, which filter, which metric, and what counts as correct."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stabfw.components import normalised
from stabfw.errors import DataError
from stabfw.imports import lm_eval, lmms_eval, vlmevalkit
from stabfw.imports.answers import Answers, Given, json_lines
from stabfw.imports.samples import Log, Sample

#: The metric that stabfw computes itself: the answer is one of the references.
EXACT = "exact"


@dataclass(frozen=True)
class Format:
    """How the logs of a harness are found and read.

    Attributes:
        patterns: Names of its logs.
        recognises: Says whether a row is one of its own.
        task_of: The task that a file's name tells.
        read: Reads a log.
    """

    patterns: tuple[str, ...]
    recognises: Callable[[Mapping[str, Any]], bool]
    task_of: Callable[[Path], str]
    read: Callable[[Path], Log]


FORMATS: Mapping[str, Format] = {
    name: Format(module.PATTERNS, module.recognises, module.task_of, module.read)
    for name, module in (
        ("lm-eval", lm_eval),
        ("lmms-eval", lmms_eval),
        ("vlmevalkit", vlmevalkit),
    )
}


def read_log(
    path: Path,
    *,
    format: str | None = None,
    task: str | None = None,
    filter: str | None = None,
    metric: str | None = None,
    correct_from: float | None = None,
) -> Answers:
    """Read a log of another harness.

    Args:
        path: The log, or the directory that the harness wrote.
        format: A name in `FORMATS`; told from the file by default.
        task: Which task of a directory; of a file, what to call its task.
        filter: Which of the harness's filters; needed where a log has several.
        metric: Which of the harness's metrics says what is correct, or `EXACT`; needed where a
            log has several.
        correct_from: The value of the metric from which an answer is correct; needed where it
            has values between 0 and 1.

    Returns:
        The answers.

    Raises:
        DataError: If the log cannot be read, or a choice has to be made; the message lists what
            there is to choose from.

    Example:
        >>> read_log(Path("out/model/samples_pope_2026-01-01T00-00-00.jsonl"))  # doctest: +SKIP
    """
    path = _one_file(path, format, task)
    log = FORMATS[format or _format_of(path)].read(path)
    if not log.samples:
        raise DataError(f"{path}: no samples in it")
    samples = _filtered(log.samples, filter, path)
    chosen = _metric(samples, metric, path)
    judged = [s for s in samples if chosen == EXACT or chosen in s.scores]
    rows = tuple(_given(sample, chosen, correct_from) for sample in judged)
    about = {
        **log.about,
        "task": task or log.task,
        **({"filter": samples[0].filter} if samples[0].filter else {}),
        "metric": chosen,
        "correct_from": 1.0 if correct_from is None else correct_from,
        **({"left_out": left_out} if (left_out := len(samples) - len(judged)) else {}),
        "log": path.name,
        "log_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return Answers(str(path), about, rows)


def _one_file(path: Path, format: str | None, task: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory")
    found = {
        file: kind.task_of(file)
        for name, kind in FORMATS.items()
        if format in (None, name)
        for pattern in kind.patterns
        for file in sorted(path.rglob(pattern))
        # Results of a run lie beside its samples, and are no log.
        if name != "vlmevalkit" or _is_vlmevalkit(file)
    }
    tasks = sorted(set(found.values()))
    if not found:
        raise DataError(
            f"{path}: no log of {format or ', '.join(FORMATS)} in it; was the harness told to "
            "log samples (--log_samples)?"
        )
    files = [file for file, its in found.items() if task in (None, its)]
    if not files:
        raise DataError(f"{path}: no log of task '{task}' in it; there are {', '.join(tasks)}")
    if len(files) > 1 and task is None and len(tasks) > 1:
        raise DataError(
            f"{path}: logs of several tasks; choose one with --task: {', '.join(tasks)}"
        )
    if len(files) > 1:
        listed = ", ".join(str(file.relative_to(path)) for file in files)
        raise DataError(f"{path}: several logs of one task; name one of the files: {listed}")
    return files[0]


def _is_vlmevalkit(path: Path) -> bool:
    try:
        return any(vlmevalkit.recognises(row) for _, row in vlmevalkit.rows(path)[:1])
    except DataError:
        return False


def _format_of(path: Path) -> str:
    if path.suffix in (".xlsx", ".tsv", ".json"):
        first = [row for _, row in vlmevalkit.rows(path)[:1]]
    else:
        first = [row for _, row in json_lines(path)[:1]]
    for name, kind in FORMATS.items():
        if first and kind.recognises(first[0]):
            return name
    raise DataError(
        f"{path}: not a log of {', '.join(FORMATS)}; `stabfw compare` reads JSONL with id, "
        "answer and gold as it is"
    )


def _filtered(samples: Sequence[Sample], wanted: str | None, path: Path) -> list[Sample]:
    names = list(dict.fromkeys(sample.filter for sample in samples))
    if wanted is None and len(names) > 1:
        raise DataError(
            f"{path}: answers of several filters; choose one with --filter: {', '.join(names)}"
        )
    if wanted is not None and wanted not in names:
        raise DataError(
            f"{path}: no answers of filter '{wanted}'; there are: {', '.join(filter(None, names))}"
        )
    kept = [sample for sample in samples if wanted in (None, sample.filter)]
    seen: dict[str, Sample] = {}
    for sample in kept:
        if sample.id in seen:
            raise DataError(
                f"{sample.where}: question {sample.id} was answered before, in "
                f"{seen[sample.id].where}; stabfw compares one answer a question"
            )
        seen[sample.id] = sample
    return kept


def _metric(samples: Sequence[Sample], wanted: str | None, path: Path) -> str:
    names = list(dict.fromkeys(name for sample in samples for name in sample.scores))
    if wanted == EXACT or wanted in names:
        return str(wanted)
    listed = ", ".join(names) or "none"
    if wanted is not None:
        raise DataError(
            f"{path}: no metric '{wanted}'; there are: {listed}, and '{EXACT}' (the answer is the "
            "reference)"
        )
    numeric = [name for name in names if all(_is_number(s.scores.get(name, 0)) for s in samples)]
    columns = {name: [sample.scores.get(name) for sample in samples] for name in numeric}
    different = [
        n for i, n in enumerate(numeric) if columns[n] not in [columns[m] for m in numeric[:i]]
    ]
    if len(different) == 1:
        return different[0]
    raise DataError(
        f"{path}: choose what says whether an answer is correct with --metric: {listed}, or "
        f"'{EXACT}' (the answer is the reference)"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _given(sample: Sample, metric: str, correct_from: float | None) -> Given:
    answer = sample.answers.get(metric, sample.answer)
    status = sample.status
    if status == "ok" and not normalised(answer or ""):
        answer, status = None, "empty"
    if metric == EXACT:
        references = {normalised(item) for item in sample.gold}
        correct = answer is not None and normalised(answer) in references
        score = float(correct)
    else:
        score = _points(sample, metric)
        if correct_from is None and score not in (0, 1):
            raise DataError(
                f"{sample.where}: {metric} is {score:g}, neither 0 nor 1; say from which value an "
                "answer counts as correct with --correct-from"
            )
        correct = score >= (1 if correct_from is None else correct_from)
    return Given(
        id=sample.id,
        answer=answer,
        gold=sample.gold,
        text=sample.text,
        correct=correct and status == "ok",
        score=score,
        cluster=sample.cluster,
        status=status,
        question=sample.question,
        content=sample.content,
    )


def _points(sample: Sample, metric: str) -> float:
    value = sample.scores[metric]
    if not _is_number(value) or value != value:
        raise DataError(
            f"{sample.where}: {metric} is {value!r}, which is no number; choose another metric "
            f"with --metric, or '{EXACT}'"
        )
    return float(value)  # type: ignore[arg-type]
