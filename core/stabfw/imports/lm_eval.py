"""Samples of lm-evaluation-harness: `samples_<task>_<date>.jsonl`, as `--log_samples` writes them.

Written for 0.4.13. Its `doc_hash` is no identity: where a document holds a picture, the hash is
over the picture's address in memory, and differs from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stabfw.errors import DataError
from stabfw.imports.samples import Log, Sample, fingerprint, log_beside_results, sole, task_in

PATTERNS = ("samples_*.jsonl",)
_NAME = re.compile(r"samples_(?P<task>.+?)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What its regex filters put where nothing matched.
_NOTHING = "[invalid]"


def recognises(row: Mapping[str, Any]) -> bool:
    """Say whether a line of a log is of this form."""
    return {"doc_id", "filtered_resps", "prompt_hash"} <= row.keys()


def task_of(path: Path) -> str:
    """The task that a log's name tells."""
    return task_in(_NAME, path)


def read(path: Path) -> Log:
    """Read a log.

    Raises:
        DataError: If a line is not of this form.
    """
    return log_beside_results(path, "lm-eval", _NAME, "*_{date}.json", _sample)


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    if not recognises(row):
        raise DataError(f"{where}: not a sample of lm-evaluation-harness: lacks doc_id or hashes")
    requests = [
        [request[name] for name in sorted(request)]
        for _, request in sorted(
            row.get("arguments", {}).items(), key=lambda item: int(item[0].rpartition("_")[2])
        )
    ]
    content = _content(row, requests)
    known: dict[str, Any] = {
        "where": where,
        "id": str(row["doc_id"]),
        "question": str(requests[0][0]) if requests else "",
        "scores": {name: row[name] for name in row.get("metrics", ()) if name in row},
        "content": content,
        "cluster": content.get("images", "none").replace("none", "") or str(row["doc_id"]),
        "filter": str(row.get("filter", "")),
    }
    if _is_choice(row):
        return Sample(**known, **_chosen(row, requests, where))
    answer = sole(row["filtered_resps"])
    if isinstance(answer, list):
        raise DataError(
            f"{where}: filter '{row.get('filter')}' leaves {len(answer)} answers to one question; "
            "choose a filter that leaves one with --filter, or log without repeats"
        )
    unread = answer == _NOTHING
    return Sample(
        **known,
        text=str(sole(row.get("resps", answer))),
        answer=None if unread else str(answer),
        gold=(str(row.get("target", "")),),
        status="invalid" if unread else "ok",
    )


def _content(row: Mapping[str, Any], requests: Sequence[Sequence[Any]]) -> dict[str, str]:
    if not requests:
        # A log that was shortened still has the hash of its first prompt.
        return {"prompt": str(row["prompt_hash"])[:16]}
    content = {"prompt": fingerprint([[a for a in r if isinstance(a, str)] for r in requests])}
    media = [
        value
        for request in requests
        for argument in request
        if isinstance(argument, dict)
        for name, value in sorted(argument.items())
        # Other dictionaries hold settings of generation.
        if name in ("visual", "audio")
    ]
    flat = [item for value in media for item in (value if isinstance(value, list) else [value])]
    if not flat:
        content["images"] = "none"
    elif all(isinstance(item, str) and _SHA256.fullmatch(item) for item in flat):
        content["images"] = fingerprint(flat)
    return content


def _is_choice(row: Mapping[str, Any]) -> bool:
    """Whether options were ranked by log-likelihood: each response is a pair of it and a flag."""
    given = row["filtered_resps"]
    return bool(given) and all(
        isinstance(item, list) and len(item) == 2 and str(item[1]) in ("True", "False")
        for item in given
    )


def _chosen(
    row: Mapping[str, Any], requests: Sequence[Sequence[Any]], where: str
) -> dict[str, Any]:
    """What `acc` and `acc_norm` take for the answer: the likeliest option, whole or by letter."""
    # Requests without a context only serve acc_mutual_info.
    rows = [i for i in range(len(row["filtered_resps"])) if not requests or requests[i][0] != ""]
    likelihoods = [float(row["filtered_resps"][i][0]) for i in rows]
    options = [str(requests[i][1]).strip() if requests else str(i) for i in rows]
    lengths = [max(len(option), 1) for option in options]
    # Where the contexts differ instead of the options, only the number names an option.
    names = options if len(set(options)) == len(options) else [str(i) for i in range(len(options))]
    best = max(range(len(rows)), key=lambda i: likelihoods[i])
    per_letter = max(range(len(rows)), key=lambda i: likelihoods[i] / lengths[i])
    target = str(row.get("target", ""))
    number = int(target) if target.isdigit() and int(target) < len(names) else None
    if number is not None:
        for metric, place in (("acc", best), ("acc_norm", per_letter)):
            if metric in row and requests and bool(row[metric]) != (place == number):
                raise DataError(
                    f"{where}: {metric} is {row[metric]}, but by the log-likelihoods option "
                    f"{place} was chosen and {number} is right; this task chooses in another "
                    "way, which stabfw cannot repeat"
                )
    return {
        "text": names[best],
        "answer": names[best],
        "answers": {"acc_norm": names[per_letter]},
        "gold": (names[number] if number is not None else target,),
    }
