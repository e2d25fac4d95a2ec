"""What a log says of one question, before it is decided which metric counts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabfw.imports.answers import json_lines


@dataclass(frozen=True)
class Sample:
    """One line of a log.

    Attributes:
        where: File and line, for messages.
        id: The harness's own id of the question.
        question: As it was asked, as far as the log tells.
        text: What the model wrote.
        answer: What the harness made of it, None where nothing could be read.
        gold: The references.
        scores: The harness's metrics of this question, by name; values as logged.
        content: Hashes of what the model was shown, by part.
        cluster: Questions with the same value share a picture.
        status: As in `AnswerStatus`.
        filter: Name of the filter that made the answer; empty if the harness has none.
        answers: Answers that depend on the metric, by its name.
    """

    where: str
    id: str
    question: str
    text: str
    answer: str | None
    gold: tuple[str, ...]
    scores: Mapping[str, object]
    content: Mapping[str, str]
    cluster: str
    status: str = "ok"
    filter: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """A log as read.

    Attributes:
        task: What was asked.
        about: What is known of the run.
        samples: Its lines.
    """

    task: str
    about: Mapping[str, object]
    samples: tuple[Sample, ...]


def fingerprint(value: object) -> str:
    """Hash anything that JSON can hold, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sole(value: object) -> object:
    """Unwrap lists of one: harnesses nest what a model wrote by request and by repeat."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def task_in(name: re.Pattern[str], path: Path) -> str:
    """The task that the name of a log tells, by the group `task` of a pattern."""
    found = name.fullmatch(path.name)
    return found["task"] if found else path.stem


def log_beside_results(
    path: Path,
    harness: str,
    name: re.Pattern[str],
    results: str,
    sample: Callable[[Mapping[str, Any], str], Sample],
) -> Log:
    """Read a log of lm-evaluation-harness, or of lmms-eval, and what its results file tells.

    Args:
        path: The log.
        harness: Whose it is.
        name: How such a log is called, with the groups `task` and `date`.
        results: Pattern of the results file's name, with `{date}` in it.
        sample: Reads a line, given where it is.
    """
    task, found = task_in(name, path), name.fullmatch(path.name)
    beside = results_beside(path, results.format(date=found["date"])) if found else {}
    samples = tuple(sample(row, f"{path}:{number}") for number, row in json_lines(path))
    about = {"harness": harness, **run_facts(beside, task)}
    return Log(task, {**about, **({"date": found["date"]} if found else {})}, samples)


def results_beside(samples: Path, pattern: str) -> dict[str, object]:
    """Read the results file of the same run, empty if it is not beside the log."""
    for path in sorted(samples.parent.glob(pattern)):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def run_facts(results: Mapping[str, object], task: str) -> dict[str, object]:
    """What the results file of lm-evaluation-harness, or of lmms-eval, tells of a run."""

    def part(name: str, of: Mapping[str, object] = results) -> Mapping[str, object]:
        value = of.get(name)
        return value if isinstance(value, dict) else {}

    config, task_config = part("config"), dict(part(task, part("configs")))
    # What a task notes of itself repeats the arguments of the model.
    task_config.pop("metadata", None)
    facts: dict[str, object] = {
        "version": results.get("lm_eval_version") or results.get("lmms_eval_version"),
        "model": results.get("model_name"),
        "model_args": config.get("model_args"),
        "dtype": config.get("model_dtype"),
        "batch_size": config.get("batch_size"),
        "generation": task_config.get("generation_kwargs"),
        "few_shot": part("n-shot").get(task),
        "task_version": part("versions").get(task),
        "task_config": fingerprint(task_config) if task_config else None,
        "chat_template": results.get("chat_template_sha"),
        "system_prompt": results.get("system_instruction_sha"),
        "transformers": results.get("transformers_version"),
    }
    return {name: value for name, value in facts.items() if value is not None}
