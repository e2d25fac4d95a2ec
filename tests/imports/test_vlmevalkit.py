"""Files in the form that VLMEvalKit's source writes; no run of it made them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.errors import DataError, Exit
from stabfw.imports import read_log

ROWS: list[dict[str, Any]] = [
    {"prediction": "B. blue", "hit": 1, "log": "Match Log: B. blue. "},
    {"prediction": "the answer is A", "hit": 0, "log": "Match Log: the answer is A. "},
    {"prediction": "azure", "hit": 1, "log": "Match Log: B. "},
    {
        "prediction": "hm",
        "hit": 1,
        "log": "Match Log: Failed to predict, thus randomly generate one. . ",
    },
    {"prediction": "Failed to obtain answer via API.", "hit": 0, "log": "Match Log: . "},
]


def table(**more: Any) -> list[dict[str, Any]]:
    asked = {"question": "Which colour?", "A": "red", "B": "blue", "C": None, "answer": "B"}
    return [{"index": i, **asked, **row, **more} for i, row in enumerate(ROWS)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".tsv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    else:
        from openpyxl import Workbook

        book = Workbook()
        for line in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(line)
        book.save(path)
    return path


@pytest.mark.parametrize("suffix", ["xlsx", "tsv", "json"])
def test_judged_choices_are_read(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / "llava" / f"llava_Colours_openai_result.{suffix}", table())
    answers = read_log(path)
    assert answers.about["model"] == "llava"
    assert (answers.about["metric"], answers.about["harness"]) == ("hit", "vlmevalkit")
    read = [(row.answer, row.status, row.correct) for row in answers.rows]
    assert read == [
        ("B", "ok", True),
        ("A", "ok", False),
        ("azure", "ok", True),  # Only the judge understood it.
        (None, "invalid", False),  # A hit by chance is none.
        (None, "error", False),
    ]
    assert [row.id for row in answers.rows] == ["0", "1", "2", "3", "4"]
    assert answers.rows[0].question == "Which colour?\nA. red\nB. blue"
    assert answers.parts == ("question",)


def test_two_files_are_compared(
    tmp_path: Path, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = table()
    write(Path("a/a_Colours_x_result.xlsx"), rows)
    rows[0] = {**rows[0], "prediction": "A", "hit": 0}
    write(Path("b/b_Colours_x_result.xlsx"), rows)
    for name in "ab":
        said = stabfw("import", name, "-o", f"{name}.jsonl")
        assert f"{name}.jsonl: 5 answers to Colours_x_result" in said
    said = stabfw("compare", "a.jsonl", "b.jsonl")
    assert "pairing verified by question only" in said
    assert "  0: 'b' → 'a'" in said
    (found,) = json.loads(stabfw("compare", "a.jsonl", "b.jsonl", "--json")).values()
    assert found["changed"] == ["0"]
    assert found["missing"] == 1  # The failed request enters no rate.
    rows[1] = {**rows[1], "B": "green"}
    write(Path("b/b_Colours_x_result.xlsx"), rows)
    stabfw("import", "b", "-o", "b.jsonl")
    said = stabfw("compare", "a.jsonl", "b.jsonl", code=Exit.USAGE)
    assert "1 of 5 items were asked differently: 1;" in said


def test_yes_no_and_vqa_files_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"index": 1, "question": "q", "answer": "Yes", "prediction": "Yes.", "extracted": "Yes"},
        {"index": 2, "question": "q", "answer": "No", "prediction": "?", "extracted": "Unknown"},
    ]
    scored = [{**row, "score": row["answer"] == row["extracted"]} for row in rows]
    read = read_log(write(tmp_path / "m_POPE_auxmatch.tsv", scored)).rows
    assert [(r.answer, r.status, r.correct) for r in read] == [
        ("Yes", "ok", True),
        (None, "invalid", False),
    ]
    shares = [{**row, "eval_score": 0.3} for row in rows]
    path = write(tmp_path / "m_TextVQA_results.json", shares)
    with pytest.raises(DataError, match=r"results.json:1: eval_score is 0.3"):
        read_log(path)
    assert read_log(path, correct_from=0.3).rows[0].score == 0.3


def test_predictions_that_were_not_scored_need_a_metric(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k not in ("hit", "log")} for row in table()]
    path = write(tmp_path / "m_Colours.xlsx", rows)
    with pytest.raises(DataError, match="with --metric: none, or 'exact'"):
        read_log(path)
    assert [row.correct for row in read_log(path, metric="exact").rows] == [
        *(True, False, False, False, False)
    ]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m_Colours.xlsx"
    path.write_text("not a workbook")
    with pytest.raises(DataError, match="not a readable xlsx file"):
        read_log(path)
    path = tmp_path / "m_Colours.json"
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="not a list of objects"):
        read_log(path)
    rows = table()
    del rows[2]["prediction"]
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match="json:3: not a row of VLMEvalKit"):
        read_log(path)
