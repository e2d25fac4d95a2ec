"""Logs that lm-evaluation-harness wrote of the embedded model, against our own run of the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_logs import BITS, LOGS, QUESTIONS, rounded
from stabfw.errors import DataError, Exit
from stabfw.imports import read_log

Rows = list[dict[str, Any]]


def log_of(name: str) -> Path:
    (path,) = (LOGS / name).glob("samples_*.jsonl")
    return path


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Copies the log of the baseline, with every row of the first documents changed."""

    def copy(change: Callable[[dict[str, Any]], object], documents: int = QUESTIONS) -> Path:
        rows: Rows = [json.loads(line) for line in log_of("baseline").read_text().splitlines()]
        for row in rows:
            if row["doc_id"] < documents:
                change(row)
        path = tmp_path / log_of("baseline").name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return copy


@pytest.fixture
def imported(
    tmp_path: Path, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Imports a log and gives the name of the file."""
    monkeypatch.chdir(tmp_path)

    def call(log: Path, name: str, filter: str = "word") -> str:
        stabfw("import", str(log), "--filter", filter, "-o", name)
        return name

    return call


def test_two_logs_compare_as_our_own_run_of_the_same(
    tmp_path: Path, imported: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    from stabfw import Registry, load_spec, run
    from stabfw.experiment import outcomes_of
    from stabfw_models.tiny import WEIGHTS

    before = imported(LOGS / "baseline", "before.jsonl")
    after = imported(LOGS / "rounded", "after.jsonl")
    (found,) = json.loads(stabfw("compare", before, after, "--json")).values()
    assert found["pairing"] == "verified"
    assert len(found["changed"]) >= 10  # Else equality would show little.

    rounded(WEIGHTS / "tiny-llava", tmp_path / "rounded", BITS)
    (tmp_path / "spec.yaml").write_text(
        f"""\
stabfw: 1
name: ours
models: [{{type: tiny-llava, dtype: float32}}]
stacks: {{rounded: [{{type: replace, source: {tmp_path / "rounded"}}}]}}
benchmarks: [{{type: shapes, limit: {QUESTIONS}}}]
controls: {{noise_floor: null}}
tracking: {{uri: null}}
execution: {{executor: inline}}
"""
    )
    done = run(load_spec("spec.yaml", Registry()))
    (comparison,) = done.results.comparisons
    for name, told in found["metrics"].items():
        if name.startswith(("margin_", "near_tie_")):
            continue  # The harness logs no probabilities.
        value = comparison.metrics[name]
        expected = [value.value, value.low, value.high, value.n]
        # Resampling draws questions in the order of their ids, which are not the harness's.
        known = slice(1) if value.method == "bca-bootstrap" else slice(None)
        assert told[known] == pytest.approx(expected[known]), name
    for log, stack in (("baseline", "baseline"), ("rounded", "rounded")):
        (table,) = (t for c, t in outcomes_of(done.directory).items() if c.stack == stack)
        texts = [row.text.strip() for row in read_log(LOGS / log, filter="word").rows]
        assert texts == [text.strip() for text in table.text]


def test_what_the_log_proves_is_told(
    imported: Callable[..., str], stabfw: Callable[..., str], changed: Callable[..., Path]
) -> None:
    before = imported(LOGS / "baseline", "before.jsonl")
    assert "answers (pairing verified): 150 questions" in stabfw("compare", before, before)

    def unhash(row: dict[str, Any]) -> None:
        row["arguments"]["gen_args_0"]["arg_2"] = {"visual": ["<PIL.Image at 0x7f2b>"]}

    # What LMEVAL_HASHMM=0 leaves of a picture.
    unproven = imported(changed(unhash), "unproven.jsonl")
    said = stabfw("compare", before, unproven)
    assert "answers (pairing verified by prompt only): 150 questions" in said
    assert "The logs do not tell which pictures were shown" in said
    # Which questions share a picture is known from the other log.
    kept = [
        json.loads(stabfw("compare", *pair, "--json"))["answers"]["metrics"]
        for pair in ((before, before), (before, unproven), (unproven, before))
    ]
    assert kept[0] == kept[1] == kept[2]
    assert (
        kept[0] != json.loads(stabfw("compare", unproven, unproven, "--json"))["answers"]["metrics"]
    )


def test_different_filters_are_not_compared(
    imported: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    before = imported(LOGS / "baseline", "before.jsonl")
    letters = imported(LOGS / "baseline", "letters.jsonl", "letter")
    said = stabfw("compare", before, letters, code=Exit.USAGE)
    assert "filter is 'word' in one and 'letter' in the other" in said


def test_a_document_with_a_picture_has_no_lasting_hash() -> None:
    """Why `doc_hash` is not used: in real logs it differs between two runs of one document."""
    runs = [
        {row["doc_id"]: row for row in map(json.loads, log_of(name).read_text().splitlines())}
        for name in ("baseline", "rounded")
    ]
    for name in ("doc", "prompt_hash", "target_hash"):
        assert all(runs[0][i][name] == runs[1][i][name] for i in runs[0])
    assert any(runs[0][i]["doc_hash"] != runs[1][i]["doc_hash"] for i in runs[0])


def test_what_was_asked_differently_is_refused_or_left_out(
    imported: Callable[..., str], stabfw: Callable[..., str], changed: Callable[..., Path]
) -> None:
    def other_prompt(row: dict[str, Any]) -> None:
        row["arguments"]["gen_args_0"]["arg_0"] += " Answer briefly."

    def other_picture(row: dict[str, Any]) -> None:
        row["arguments"]["gen_args_0"]["arg_2"]["visual"] = ["0" * 64]

    before = imported(log_of("baseline"), "before.jsonl")
    for change in (other_prompt, other_picture):
        after = imported(changed(change, 17), "after.jsonl")
        said = stabfw("compare", before, after, code=Exit.USAGE)
        assert "17 of 150 items were asked differently: 0, 1, 2, 3, 4, …" in said
        said = stabfw("compare", before, after, "--leave-out-differing")
        assert "answers (pairing verified): 133 questions" in said
        assert "Questions asked differently and left out: 17." in said
        (found,) = json.loads(
            stabfw("compare", before, after, "--leave-out-differing", "--json")
        ).values()
        assert found["asked_differently"] == [str(i) for i in range(17)]
        assert found["metrics"]["divergence_ratio"][0] == 0


def test_the_filter_has_to_be_chosen(stabfw: Callable[..., str]) -> None:
    said = stabfw("import", str(LOGS / "baseline"), code=Exit.USAGE)
    assert "choose one with --filter: word, letter" in said
    said = stabfw("import", str(LOGS / "baseline"), "--filter", "x", code=Exit.USAGE)
    assert "there are: word, letter" in said
    letters = read_log(LOGS / "baseline", filter="letter").rows
    unread = [row for row in letters if row.status == "invalid"]
    assert 20 < len(unread) < QUESTIONS
    assert all(row.answer is None and not row.correct and row.text for row in unread)


def test_facts_of_the_run_are_kept() -> None:
    about = read_log(LOGS / "rounded", filter="word").about
    assert about["harness"] == "lm-eval"
    assert about["version"] == "0.4.13"
    assert (about["model"], about["task"]) == ("tiny-llava-rounded", "shapes")
    assert (about["metric"], about["batch_size"]) == ("exact_match", "10")


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_options_are_chosen_as_the_metric_chooses_them(metric: str) -> None:
    answers = read_log(LOGS / "options", metric=metric)
    rows = [json.loads(line) for line in log_of("options").read_text().splitlines()]
    assert [row.correct for row in answers.rows] == [bool(row[metric]) for row in rows]
    assert all((row.answer in row.gold) == row.correct for row in answers.rows)
    assert {row.correct for row in answers.rows} == {True, False}
    assert answers.parts == ("prompt", "images")  # There is no picture, and the log shows it.


def test_the_two_metrics_choose_differently() -> None:
    acc, norm = (read_log(LOGS / "options", metric=name).rows for name in ("acc", "acc_norm"))
    assert [row.answer for row in acc] != [row.answer for row in norm]
    with pytest.raises(DataError, match="with --metric: acc, acc_norm, or 'exact'"):
        read_log(LOGS / "options")
    with pytest.raises(DataError, match="there are: acc, acc_norm"):
        read_log(LOGS / "options", metric="f1")


def test_choices_that_cannot_be_repeated_are_refused(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in log_of("options").read_text().splitlines()]
    rows[3]["acc"] = 1.0 - rows[3]["acc"]
    path = tmp_path / log_of("options").name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"jsonl:4: acc is"):
        read_log(path, metric="acc")


def test_a_directory_with_several_logs_needs_a_choice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one with --task: options, shapes"):
        read_log(LOGS)
    with pytest.raises(DataError, match="several logs of one task; name one of the files"):
        read_log(LOGS, task="shapes")
    with pytest.raises(DataError, match="no log of task 'pope' in it; there are options, shapes"):
        read_log(LOGS, task="pope")
    with pytest.raises(DataError, match="--log_samples"):
        read_log(tmp_path)
    with pytest.raises(DataError, match="no such file or directory"):
        read_log(tmp_path / "nothing")


def test_wrong_lines_are_named(tmp_path: Path, changed: Callable[..., Path]) -> None:
    twice = tmp_path / log_of("options").name
    lines = log_of("options").read_text().splitlines()
    twice.write_text("\n".join([*lines, lines[2]]))
    with pytest.raises(DataError, match=r"jsonl:21: question 2 was answered before, in .*:3"):
        read_log(twice, metric="acc")
    twice.write_text("\n".join([*lines, '{"doc_id": 3']))
    with pytest.raises(DataError, match=r"jsonl:21: not valid JSON"):
        read_log(twice, metric="acc")
    twice.write_text('{"id": 1, "answer": "a", "gold": "b"}')
    with pytest.raises(DataError, match="not a log of lm-eval, lmms-eval, vlmevalkit"):
        read_log(twice)
    several = changed(lambda row: row.update(filtered_resps=[["a", "b"]]))
    with pytest.raises(DataError, match="leaves 2 answers to one question"):
        read_log(several)
    shares = changed(lambda row: row.update(exact_match=0.3))
    with pytest.raises(DataError, match=r":1: exact_match is 0.3, .* --correct-from"):
        read_log(shares, filter="word")
    assert all(r.correct for r in read_log(shares, filter="word", correct_from=0.3).rows)


def test_a_log_without_results_is_read(tmp_path: Path) -> None:
    shutil.copy(log_of("baseline"), tmp_path)
    answers = read_log(tmp_path, filter="word")
    assert answers.about["task"] == "shapes"
    assert "model" not in answers.about


def test_pages_are_written(
    imported: Callable[..., str], stabfw: Callable[..., str], tmp_path: Path
) -> None:
    before = imported(LOGS / "baseline", "before.jsonl")
    after = imported(LOGS / "rounded", "after.jsonl")
    stabfw("compare", before, after, "--report", "pages")
    said = json.loads(stabfw("compare", before, after, "--json"))["answers"]
    page = Path("pages/report.html").read_text()
    assert "Verified to be the same: prompt and images." in page
    assert "tiny-llava-rounded" in page
    assert "elsewhere comparison" in page
    (changes,) = Path("pages").glob("cells/*/changes.jsonl")
    listed = [json.loads(line) for line in changes.read_text().splitlines()]
    assert sorted(item["instance_id"] for item in listed) == sorted(said["changed"])
    assert all("<image>" in item["question"] for item in listed)
    stabfw("compare", before, after, "--report", "pages")  # Replaces its own pages,
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("x")
    refused = stabfw("compare", before, after, "--report", "mine", code=Exit.USAGE)
    assert "there is something else in it" in refused  # and nothing else.


def test_the_log_is_not_overwritten(
    tmp_path: Path, stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(log_of("options"), "log.jsonl")
    said = stabfw("import", "log.jsonl", "--metric", "acc", "-o", "log.jsonl", code=Exit.USAGE)
    assert "that is the log itself" in said
    assert Path("log.jsonl").read_text() == log_of("options").read_text()
    stabfw("import", "log.jsonl", "--metric", "acc")
    assert Path("log.answers.jsonl").is_file()
