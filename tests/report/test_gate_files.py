"""What is written of verdicts: short enough, well-formed, and with nothing hidden."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from drawn import HOSTILE
from stabfw.metrics import Estimate, Verdict, combined
from stabfw.report.gates import (
    SUMMARY_BYTES,
    exit_code,
    junit,
    summary,
    verdict_json,
    write_verdict,
)
from stabfw.report.page import report_page
from stabfw.report.results import Condition, GateResult, Judged, Results, Role
from stabfw.report.serialise import load_results, save_results

VERDICTS = list(Verdict)


def judged(number: int, verdict: Verdict, name: str = "stack") -> Judged:
    at = Condition("tiny", f"{name} {number}", "shapes", "clean", 0, Role.STACK)
    found = Estimate(0.01, 0.005, 0.0199, 800, 400, "korn-graubard")
    return Judged(at, verdict, f"because {name}", found, replace(found, n=790), None, 10)


def gate(cells: list[Judged]) -> GateResult:
    verdict = combined(cell.verdict for cell in cells)
    where = {"perturbation": ("clean", "typos")}
    return GateResult("correct_loss_rate", 0.02, False, 0.95, where, verdict, tuple(cells))


@pytest.fixture
def results(drawn) -> Results:
    cells = [judged(i, verdict) for i, verdict in enumerate(VERDICTS)]
    return replace(drawn.results, gates=(gate(cells), gate(cells[:1])))


def test_everything_is_told_in_every_file(results: Results, tmp_path: Path) -> None:
    write_verdict(results, tmp_path)
    assert exit_code(results) == 1
    text = (tmp_path / "summary.md").read_text()
    page = report_page(results)
    for cell in results.gates[0].cells:
        assert text.count(cell.condition.stack) >= 1
        assert cell.condition.label in page
    # The worst come first.
    places = [text.index(f"stack {i} ·") for i in (3, 2, 1, 0)]
    assert places == sorted(places)
    assert "correct\\_loss\\_rate ≤ 2.00 % (perturbation clean or typos)" in text
    assert "[0.50, 1.99]" in page
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert [root.get(key) for key in ("tests", "failures", "errors")] == ["5", "1", "2"]
    first, second = root
    assert [len(list(first.iter(tag))) for tag in ("failure", "error", "system-out")] == [1, 2, 1]
    assert (second.get("failures"), second.get("errors")) == ("0", "0")


def test_a_summary_of_thousands_of_cells_fits_into_a_comment(results: Results) -> None:
    cells = [judged(i, Verdict.PASS, "é" * 40) for i in range(3000)]
    cells.append(judged(3000, Verdict.FAIL, "bad"))
    text = summary(replace(results, gates=(gate(cells), gate(cells))))
    assert len(text) < len(text.encode()) <= SUMMARY_BYTES < 65_536
    assert "bad 3000" in text
    shown = text.count("| pass | 1.00")
    assert 50 < shown < 3000
    assert f"… and {6002 - shown - text.count('| fail | 1.00')} more cells" in text
    assert text.endswith("does not say that nothing changed.\n")
    long = replace(results, notices=("x" * 70_000,))
    assert len(summary(long).encode()) <= SUMMARY_BYTES


def test_hostile_names_stay_text(results: Results) -> None:
    hostile = HOSTILE + " | `code` [link](http://x) @everyone \x00\x1b\n# head"
    wicked = replace(
        results,
        name="a\x07b",
        gates=(gate([judged(0, Verdict.FAIL, hostile)]),),
    )
    ET.fromstring(junit(wicked))
    (line,) = [line for line in summary(wicked).splitlines() if "| fail | 1.00" in line]
    assert line.count(" | ") == 7
    assert "<script>" not in summary(wicked).replace("\\<", "")
    assert "\n# head" not in summary(wicked)
    assert "<script>document" not in report_page(wicked)
    assert '"verdict": "fail"' in verdict_json(wicked)


def test_verdicts_survive_the_disk(results: Results, tmp_path: Path) -> None:
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results


def test_without_gates_there_are_no_files(drawn, results: Results, tmp_path: Path) -> None:
    write_verdict(results, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    write_verdict(drawn.results, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert exit_code(drawn.results) == 0
    assert "<h2>Gates</h2>" not in report_page(drawn.results)
