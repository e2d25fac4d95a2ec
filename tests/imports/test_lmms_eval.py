"""Logs that lmms-eval wrote of the same models and questions as those of lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_logs import LOGS as LM_EVAL
from lmms_eval_logs import LOGS
from stabfw.errors import DataError
from stabfw.imports import read_log

PLAIN = {"doc_id": 0, "target": "yes", "filtered_resps": "Yes", "doc_hash": "h", "input": "Is it?"}


def log(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "20260101_000000_samples_mine.jsonl"
    path.write_text("".join(json.dumps({**PLAIN, **row}) + "\n" for row in rows))
    return path


def test_both_harnesses_show_the_same_changes(
    tmp_path: Path, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for side in ("baseline", "rounded"):
        stabfw("import", str(LOGS / side), "-o", f"lmms-{side}.jsonl")
        stabfw("import", str(LM_EVAL / side), "--filter", "word", "-o", f"lm-{side}.jsonl")
    lm, lmms = (
        json.loads(stabfw("compare", f"{name}-baseline.jsonl", f"{name}-rounded.jsonl", "--json"))
        for name in ("lm", "lmms")
    )
    assert lmms["answers"]["pairing"] == "verified by prompt only"
    assert lmms["answers"]["changed"] == lm["answers"]["changed"]
    for name, (value, *_) in lm["answers"]["metrics"].items():
        assert lmms["answers"]["metrics"][name][0] == pytest.approx(value), name
    said = stabfw("compare", "lm-baseline.jsonl", "lmms-baseline.jsonl")
    assert "answers (pairing unverified): 150 questions" in said
    assert "harness lm-eval → lmms-eval" in said


def test_facts_and_answers_are_read() -> None:
    answers = read_log(LOGS / "rounded")
    assert answers.about["model"] == "tiny-llava-rounded"
    assert (answers.about["task"], answers.about["metric"]) == ("shapes", "shapes_score.score")
    assert answers.parts == ("prompt",)
    assert all(row.correct == (row.answer == row.gold[0]) for row in answers.rows)
    (path,) = (LOGS / "rounded").glob("*.jsonl")
    hashes = {json.loads(line)["doc_hash"] for line in path.read_text().splitlines()}
    assert len(hashes) == 1  # Which is why it is not used.


def test_what_a_task_parsed_is_the_answer(tmp_path: Path) -> None:
    scores = {"score": 1.0, "question_id": "7", "prediction": "yes"}
    path = log(tmp_path, {"a": scores, "b": scores}, {"doc_id": 1, "a": scores, "b": scores})
    answers = read_log(path)  # Two metrics that never differ need no choice.
    assert answers.about["metric"] == "a.score"
    assert (answers.rows[0].answer, answers.rows[0].text) == ("yes", "Yes")


def test_questions_without_the_metric_are_left_out_and_counted(tmp_path: Path) -> None:
    path = log(tmp_path, {"a": {"score": 1}}, {"doc_id": 1, "b": {"score": 0}})
    with pytest.raises(DataError, match=r"with --metric: a\.score, b\.score, or 'exact'"):
        read_log(path)
    answers = read_log(path, metric="b.score")
    assert [row.id for row in answers.rows] == ["1"]
    assert answers.about["left_out"] == 1


def test_a_metric_without_a_number_needs_another(tmp_path: Path) -> None:
    path = log(tmp_path, {"acc": {"parsed_pred": ["yes"], "answer": "yes"}})
    with pytest.raises(DataError, match="with --metric: none, or 'exact'"):
        read_log(path)
    assert read_log(path, metric="exact").rows[0].correct
    with pytest.raises(DataError, match=r":1: words is 'many', which is no number"):
        read_log(log(tmp_path, {"words": "many"}), metric="words")


def test_several_responses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 responses to one question"):
        read_log(log(tmp_path, {"filtered_resps": [["a"], ["b"]]}))
    with pytest.raises(DataError, match=r":2: question 0 was answered before, in .*:1"):
        read_log(log(tmp_path, {"acc": 1}, {"acc": 1}))
