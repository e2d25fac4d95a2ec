"""Samples of lmms-eval: `<date>_samples_<task>.jsonl`, as `--log_samples` writes them.

Written for 0.7.3. Its `doc_hash` is the same for every question, and what the log says of
pictures is names, so only the prompt can be verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stabfw.errors import DataError
from stabfw.imports.samples import Log, Sample, fingerprint, log_beside_results, sole, task_in

PATTERNS = ("*_samples_*.jsonl",)
_NAME = re.compile(r"(?P<date>.+?)_samples_(?P<task>.+)\.jsonl")
_NOT_METRICS = {
    *("doc_id", "doc", "target", "arguments", "input", "input_media", "resps", "filtered_resps"),
    *("token_counts", "doc_hash", "submission"),
}
#: Under which names its tasks keep what they parsed out of a text.
_PARSED = ("pred_answer", "parsed_pred", "prediction", "pred")


def recognises(row: Mapping[str, Any]) -> bool:
    """Say whether a line of a log is of this form."""
    return {"doc_id", "filtered_resps", "input"} <= row.keys() and "prompt_hash" not in row


def task_of(path: Path) -> str:
    """The task that a log's name tells."""
    return task_in(_NAME, path)


def read(path: Path) -> Log:
    """Read a log.

    Raises:
        DataError: If a line is not of this form.
    """
    return log_beside_results(path, "lmms-eval", _NAME, "{date}_results.json", _sample)


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    if not recognises(row):
        raise DataError(f"{where}: not a sample of lmms-eval: lacks doc_id, input or responses")
    answer = sole(row["filtered_resps"])
    if isinstance(answer, list):
        raise DataError(
            f"{where}: {len(answer)} responses to one question; stabfw reads logs of one "
            "generated answer a question"
        )
    scores, answers = _scores({k: v for k, v in row.items() if k not in _NOT_METRICS})
    prompt = row["input"]
    return Sample(
        where=where,
        id=str(row["doc_id"]),
        question=prompt if isinstance(prompt, str) else "",
        # Responses that the filter left as they were are not logged twice.
        text=str(sole(row.get("resps", answer))),
        answer=str(answer),
        gold=(str(row.get("target", "")),),
        scores=scores,
        content={"prompt": fingerprint(prompt)} if isinstance(prompt, str) else {},
        cluster=str(row["doc_id"]),
        answers=answers,
    )


def _scores(metrics: Mapping[str, Any]) -> tuple[dict[str, object], dict[str, str]]:
    """Metrics by name, those that are kept inside an object as `name.field`."""
    scores: dict[str, object] = {}
    answers: dict[str, str] = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            scores[name] = value
            continue
        parsed = next((sole(value[key]) for key in _PARSED if key in value), None)
        for key, number in value.items():
            if isinstance(number, int | float):
                scores[f"{name}.{key}"] = number
                if isinstance(parsed, str):
                    answers[f"{name}.{key}"] = parsed
    return scores, answers
