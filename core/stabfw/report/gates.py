"""Verdicts: what the gates of a spec say of the outcomes, and the files that tell it to others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from stabfw.components.files import write_atomic
from stabfw.errors import Exit
from stabfw.metrics import Pairs, Verdict, combined, decide, floor_estimate, gate_estimate
from stabfw.plan.conditions import Condition
from stabfw.report.layout import JUNIT, SUMMARY, VERDICT
from stabfw.report.results import GateResult, Judged, Results
from stabfw.report.serialise import encode
from stabfw.report.wording import NOTHING, number

if TYPE_CHECKING:
    from stabfw.spec import Gate

#: Of the form of `verdict.json`.
FORM = 1
#: GitHub refuses comments of more than 65,536 characters; what a bot writes around it needs room.
SUMMARY_BYTES = 60_000
EXITS = {
    Verdict.PASS: Exit.OK,
    Verdict.FAIL: Exit.GATE_FAILED,
    Verdict.INCONCLUSIVE: Exit.INCONCLUSIVE,
    Verdict.NOT_MEASURABLE: Exit.NOT_MEASURABLE,
}
_FILES = (VERDICT, JUNIT, SUMMARY)
#: How verdicts read.
WORDS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "fail",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_MEASURABLE: "not measurable",
}
_MEANS = {
    Verdict.PASS: "Every cell keeps to every limit, at the confidence stated for each.",
    Verdict.FAIL: "At least one cell breaks a limit.",
    Verdict.INCONCLUSIVE: "No cell is shown to break a limit, and not all are shown to keep to it.",
    Verdict.NOT_MEASURABLE: "Somewhere the baseline alone, against itself, breaks the limit.",
}
# What XML cannot hold, even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Outcome:
    """What a cell is judged by.

    Attributes:
        pairs: The cell beside its baseline.
        repeats: The baseline beside its repeats.
        golds: The right answers of each question, by instance id.
    """

    pairs: Pairs
    repeats: Sequence[Pairs]
    golds: dict[str, tuple[str, ...]]


def judge(
    gate: Gate, conditions: Sequence[Condition], outcome: Callable[[Condition], Outcome | str]
) -> GateResult:
    """Judge the cells of a gate.

    Args:
        gate: The gate.
        conditions: The cells that are in its `where`.
        outcome: Gives what a cell is judged by, or why it has no outcomes.

    Returns:
        The verdict on each cell and over all.
    """
    cells = tuple(_judged(gate, condition, outcome(condition)) for condition in conditions)
    where = {k: v for k, v in gate.where.model_dump(exclude_none=True).items() if k != "gold"}
    if gate.where.gold is not None:
        where["gold"] = (gate.where.gold,)
    return GateResult(
        metric=gate.metric,
        limit=gate.limit,
        at_least=gate.at_least is not None,
        confidence=gate.confidence,
        where=where,
        verdict=combined(cell.verdict for cell in cells),
        cells=cells,
    )


def exit_code(results: Results) -> Exit:
    """Return the exit code of the verdict over all gates; 0 where there are none."""
    return EXITS[results.verdict] if results.verdict is not None else Exit.OK


def title(gate: GateResult) -> str:
    """Name a gate: `correct_loss_rate ≤ 2 %`, and where it applies if not everywhere."""
    sign = "≥" if gate.at_least else "≤"
    names = [f"{field} {' or '.join(values)}" for field, values in gate.where.items()]
    where = f" ({', '.join(names)})" if names else ""
    return f"{gate.metric} {sign} {_percent(gate.limit)}{where}"


def row(gate: GateResult, cell: Judged) -> tuple[str, ...]:
    """Say a verdict in cells of a table, see `HEAD`."""
    found, complete, floor = cell.estimate, cell.complete, cell.floor
    if found is None or complete is None:
        return cell.condition.label, WORDS[cell.verdict], *(NOTHING,) * 5
    noise = None if floor is None else floor.low if gate.at_least else floor.high
    missing = f"{cell.missing:,} ({_percent(complete.value)} without)" if cell.missing else "0"
    return (
        cell.condition.label,
        WORDS[cell.verdict],
        _percent(found.value),
        f"[{_bare(found.low)}, {_bare(found.high)}]",
        _percent(noise),
        f"{found.n:,} / {found.clusters:,}",
        missing,
    )


#: Of the columns of `row`.
HEAD = ("cell", "verdict", "value", "bounds", "floor's bound", "answers / pictures", "missing")


def write_verdict(results: Results, directory: Path) -> None:
    """Write `verdict.json`, JUnit XML and a Markdown summary; remove them where there are no gates.

    Args:
        results: The results.
        directory: The directory of the run.
    """
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)
    if results.gates:
        write_atomic(directory / JUNIT, junit(results).encode())
        write_atomic(directory / SUMMARY, summary(results).encode())
        write_atomic(directory / VERDICT, verdict_json(results).encode())


@dataclass(frozen=True)
class VerdictFile:
    """The form of `verdict.json`.

    Attributes:
        stabfw_verdict: Version of this form.
        name: Name of the experiment.
        spec: Hash of its spec.
        estimand: `matched` or `deployed`.
        verdict: Over all gates: every cell of every gate has to pass.
        exit_code: Of `stabfw gate`, were nothing incomplete.
        incomplete: Number of cells without outcome that failed, and of instances that could not
            be asked; where it is not 0, `stabfw` ends with 4.
        gates: The gates in the order of the spec.
    """

    stabfw_verdict: int
    name: str
    spec: str
    estimand: str
    verdict: Verdict
    exit_code: int
    incomplete: int
    gates: tuple[GateResult, ...]


def verdict_json(results: Results) -> str:
    """Return the content of `verdict.json`; `verdict_schema` describes it."""
    assert results.verdict is not None
    content = VerdictFile(
        stabfw_verdict=FORM,
        name=results.name,
        spec=results.spec_hash,
        estimand=results.estimand,
        verdict=results.verdict,
        exit_code=int(exit_code(results)),
        incomplete=incomplete(results),
        gates=results.gates,
    )
    return json.dumps(encode(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def verdict_schema() -> dict[str, Any]:
    """Return the JSON Schema of `verdict.json`, draft 2020-12."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(VerdictFile).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def incomplete(results: Results) -> int:
    """Count the cells that failed and the instances that could not be asked."""
    failed = sum(failure.status == "failed" for failure in results.failures)
    return failed + sum(cell.unanswered for cell in results.cells)


def junit(results: Results) -> str:
    """Return the verdicts as JUnit XML: a suite for each gate, a case for each cell.

    What is not shown to keep to its limit is no success: an open verdict is an error.
    """
    root = ElementTree.Element("testsuites", name=_plain(results.name))
    totals = dict.fromkeys(("tests", "failures", "errors"), 0)
    for gate in results.gates:
        verdicts = [cell.verdict for cell in gate.cells]
        counts = {
            "tests": len(verdicts),
            "failures": verdicts.count(Verdict.FAIL),
            "errors": len(verdicts) - verdicts.count(Verdict.FAIL) - verdicts.count(Verdict.PASS),
        }
        totals = {name: totals[name] + count for name, count in counts.items()}
        suite = ElementTree.SubElement(root, "testsuite", name=_plain(title(gate)))
        for key, count in counts.items():
            suite.set(key, str(count))
        for cell in gate.cells:
            label, verdict, *told = map(_plain, row(gate, cell))
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{_plain(results.name)}.{gate.metric}", name=label
            )
            told.append(_plain(cell.reason))
            text = "\n".join(f"{k}: {v}" for k, v in zip((*HEAD[2:], "why"), told, strict=True))
            if cell.verdict is Verdict.PASS:
                ElementTree.SubElement(case, "system-out").text = text
                continue
            kind = "failure" if cell.verdict is Verdict.FAIL else "error"
            message = f"{verdict}: {_plain(cell.reason)}"
            ElementTree.SubElement(case, kind, type=cell.verdict.value, message=message).text = text
    for key, count in totals.items():
        root.set(key, str(count))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def summary(results: Results) -> str:
    """Return the verdicts as Markdown, short enough for a comment; the worst cells come first."""
    assert results.verdict is not None
    lines = [
        f"## {_cell(results.name)}: {WORDS[results.verdict]}",
        "",
        f"{_MEANS[results.verdict]} {results.estimand.capitalize()} comparison.",
    ]
    if missing := incomplete(results):
        lines.append(f"**Incomplete**: {missing} cells or questions have no outcome.")
    lines += ["", "| gate | verdict | cells | passed |", "|---|---|---|---|"]
    for gate in results.gates:
        passed = sum(cell.verdict is Verdict.PASS for cell in gate.cells)
        words = (title(gate), WORDS[gate.verdict], str(len(gate.cells)), str(passed))
        lines.append(_line(words))
    lines += [f"\n> {_cell(notice)}" for notice in results.notices]
    left = 0
    size = len("\n".join(lines).encode()) + 1000
    for gate in results.gates:
        head = ["", f"### {_cell(title(gate))}, at {gate.confidence:.4g}", ""]
        head += [_line((*HEAD, "why")), "|" + "---|" * (len(HEAD) + 1)]
        ordered = sorted(gate.cells, key=_worst_first)
        rows = [_line((*row(gate, cell), cell.reason)) for cell in ordered]
        for text in ["\n".join(head), *rows]:
            size += len(text.encode()) + 1
            if size > SUMMARY_BYTES:
                left += text in rows
            else:
                lines.append(text)
    if left:
        lines += ["", f"… and {left} more cells; `{VERDICT}` has them all."]
    lines += [
        "",
        "Missing and unreadable answers count as lost. A pass holds for these questions' like, at "
        "the stated limit and confidence; it does not say that nothing changed.",
    ]
    text = "\n".join(lines) + "\n"
    # Names and notices of any length must not break the promise.
    return text.encode()[:SUMMARY_BYTES].decode(errors="ignore")


def _judged(gate: Gate, condition: Condition, outcome: Outcome | str) -> Judged:
    if isinstance(outcome, str):
        return Judged(condition, Verdict.INCONCLUSIVE, f"there are no outcomes: {outcome}")
    pairs, repeats = outcome.pairs, outcome.repeats
    if (gold := gate.where.gold) is not None:
        pairs, *repeats = (_of_class(p, gold, outcome.golds) for p in (pairs, *repeats))
    at_least = gate.at_least is not None
    if not repeats and gate.metric.startswith("excess"):
        return Judged(condition, Verdict.INCONCLUSIVE, "there is no noise floor to go beyond")
    found = gate_estimate(gate.metric, pairs, repeats, gate.confidence)
    floor = floor_estimate(gate.metric, repeats, gate.confidence)
    verdict, reason = decide(found, gate.limit, floor, at_least=at_least)
    return Judged(
        condition=condition,
        verdict=verdict,
        reason=reason,
        estimate=found,
        complete=gate_estimate(gate.metric, pairs, repeats, gate.confidence, worst_case=False),
        floor=floor,
        missing=int(np.count_nonzero(~pairs.valid)),
    )


def _of_class(pairs: Pairs, gold: str, golds: dict[str, tuple[str, ...]]) -> Pairs:
    known = (golds.get(name, ()) for name in pairs.instance_id.tolist())
    return pairs.select(np.fromiter((gold in own for own in known), np.bool_, len(pairs)))


def _worst_first(cell: Judged) -> int:
    order = [Verdict.FAIL, Verdict.NOT_MEASURABLE, Verdict.INCONCLUSIVE, Verdict.PASS]
    return order.index(cell.verdict)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{_bare(value)} %"


def _bare(value: float) -> str:
    """A share in per cent, with as many digits as a limit may need."""
    share = value * 100
    return number(share, 1 if abs(share) >= 10 else 2)


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, words)) + " |"


def _cell(text: str) -> str:
    """Text within a table or a line of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|@])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    return _NO_XML.sub("�", text)
