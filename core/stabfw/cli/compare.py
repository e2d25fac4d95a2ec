"""`stabfw compare`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from stabfw.errors import DataError, RunError
from stabfw.imports import WHOLE, Answers, against, asked_differently, read_answers
from stabfw.metrics import Outcomes, PairingError, Pairs, pair
from stabfw.report.layout import REPORT, SPEC


@click.command("compare", short_help="Compare two runs, or two files of answers.")
@click.argument("baseline")
@click.argument("variant")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write pages into this directory; for files of answers.",
)
@click.option(
    "--leave-out-differing",
    is_flag=True,
    help="Leave out and count what the two sides were asked differently, instead of refusing.",
)
def command(
    baseline: str, variant: str, as_json: bool, report: Path | None, leave_out_differing: bool
) -> None:
    """Compare the answers of BASELINE and VARIANT, question by question.

    Each is either a directory that `stabfw run` wrote, with `:STACK` to pick a stack, or a JSONL
    file of answers: what `stabfw import` makes of the log of another harness, or one object a
    line with `id`, `answer`, `gold` (a text or a list), and where they are known `text`,
    `cluster` and `correct`. Questions are paired by id, never by position. Where both files have
    hashes of what was asked they must agree; without them the pairing is unverified: nothing
    proves that equal ids were asked the same question.

    \b
    Examples:
      stabfw compare before.jsonl after.jsonl --report report
      stabfw compare runs/monday runs/friday
      stabfw compare runs/demo:hqq-4bit runs/demo:fastv-50
    """
    from rich.markup import escape

    from stabfw.metrics import Counts, stability_metrics

    from .tables import metrics_table, terminal

    files = [read_answers(Path(name)) for name in (baseline, variant) if Path(name).is_file()]
    if report is not None and len(files) < 2:
        raise RunError("--report is for two files of answers; a run has its pages already")
    console = terminal()
    found: dict[str, Any] = {}
    for name, ours, theirs, verified, notices in _compared(baseline, variant, files):
        ours, theirs, differing = _same_questions(
            ours, theirs, leave_out_differing, f"{baseline} and {variant}, {name}"
        )
        try:
            pairs = pair(ours, theirs)
        except PairingError as error:
            raise DataError(f"{baseline} and {variant}, {name}: {error}") from error
        if differing:
            notices = (*notices, f"Questions asked differently and left out: {len(differing)}.")
        metrics = stability_metrics(pairs)
        changed = pairs.instance_id[pairs.changed].tolist()
        missing = Counts.of(pairs).n_missing
        found[name] = {
            "pairing": verified,
            "notices": list(notices),
            "asked_differently": differing,
            "missing": missing,
            "metrics": {key: [m.value, m.low, m.high, m.n] for key, m in metrics.items()},
            "changed": changed,
        }
        if report is not None:
            _write(report, pairs, files, notices, f"{baseline} → {variant}")
        if as_json:
            continue
        title = f"{name} (pairing {verified}): {len(pairs)} questions"
        console.print(metrics_table(escape(title), metrics))
        for notice in notices:
            console.print(f"[yellow]{escape(notice)}[/]", highlight=False)
        if missing:
            console.print(f"[yellow]questions without an answer on one side: {missing}[/]")
        rows = list(zip(changed, *_answers(pairs), strict=True))
        for instance_id, before, after in rows[:20]:
            line = escape(f"  {instance_id}: {before!r} → {after!r}")
            console.print(line, highlight=False)
        if len(rows) > 20:
            console.print(f"  … and {len(rows) - 20} more; --json lists all")
        if report is not None:
            console.print(f"pages: {report / REPORT}", highlight=False)
    if as_json:
        click.echo(json.dumps(found, indent=1))


def _compared(
    baseline: str, variant: str, files: Sequence[Answers]
) -> Iterator[tuple[str, Outcomes, Outcomes, str, tuple[str, ...]]]:
    """Yield what is compared: its name, both tables, what is verified, and what to tell."""
    if len(files) == 2:
        sides = against(*files)
        whole = set(sides.verified) >= WHOLE
        verified = f"verified by {' and '.join(sides.verified)} only"
        verified = "verified" if whole else verified if sides.verified else "unverified"
        yield "answers", sides.base, sides.variant, verified, sides.notices
        return
    runs = [_sides(name) for name in (baseline, variant) if not Path(name).is_file()]
    if files:
        raise RunError(f"{files[0].name} is a file of answers, to be compared with another file")
    ours, theirs = runs
    common = [name for name in ours if name in theirs]
    if not common:
        raise RunError(
            f"nothing to compare: {baseline} has {', '.join(ours) or 'nothing'}; "
            f"{variant} has {', '.join(theirs) or 'nothing'}"
        )
    for name in common:
        yield name, ours[name], theirs[name], "verified", ()


def _same_questions(
    ours: Outcomes, theirs: Outcomes, leave_out: bool, where: str
) -> tuple[Outcomes, Outcomes, list[str]]:
    """Leave out what was asked differently, or refuse it."""
    differing = asked_differently(ours, theirs)
    if not differing:
        return ours, theirs, []
    if not leave_out or len(differing) == len(ours):
        shown = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
        advice = (
            "these are not the same questions, or they come in another order"
            if len(differing) == len(ours)
            else "look at them, or leave them out with --leave-out-differing"
        )
        raise DataError(
            f"{where}: {len(differing)} of {len(ours)} items were asked differently: {shown}; "
            f"{advice}"
        )
    known = set(differing)
    kept = [np.array([i not in known for i in t.instance_id], dtype=bool) for t in (ours, theirs)]
    return ours.select(kept[0]), theirs.select(kept[1]), differing


def _write(
    directory: Path, pairs: Pairs, files: Sequence[Answers], notices: Sequence[str], name: str
) -> None:
    from stabfw.report.elsewhere import results_of, rows_of
    from stabfw.report.write import write_pages

    if any(directory.glob("*")) and not (directory / REPORT).is_file():
        raise RunError(f"{directory}: there is something else in it; choose another directory")
    if (directory / SPEC).is_file():
        raise RunError(f"{directory}: that is the directory of a run; choose another one")
    base, variant = files
    results = results_of(pairs, base, variant, notices, name)
    write_pages(results, lambda _: rows_of(pairs, base, variant), directory)


def _answers(pairs: Any) -> tuple[list[Any], list[Any]]:
    changed = pairs.changed
    return pairs.base.answer[changed].tolist(), pairs.variant.answer[changed].tolist()


def _sides(name: str) -> dict[str, Outcomes]:
    """The outcome tables that an argument names, by what both sides must share."""
    directory, _, stack = name.partition(":")
    if not (Path(directory) / SPEC).is_file():
        raise RunError(f"{name}: neither a JSONL file nor a directory that `stabfw run` wrote")
    from stabfw.experiment import outcomes_of
    from stabfw.plan import Role
    from stabfw.plan.conditions import BASELINE

    tables = {}
    for condition, table in outcomes_of(Path(directory)).items():
        if condition.role in (Role.FLOOR, Role.LIKELIHOOD) or (stack and condition.stack != stack):
            continue
        parts = [] if stack else [condition.stack]
        parts += [condition.circumstance] if condition.circumstance and not stack else []
        if stack == BASELINE and condition.circumstance:
            continue
        parts += [condition.perturbation, condition.benchmark, condition.model]
        parts += [f"seed {condition.seed}"] if condition.seed else []
        tables[" · ".join(parts)] = table
    if not tables:
        raise RunError(f"{name}: no finished cells" + (f" of stack '{stack}'" if stack else ""))
    return tables
