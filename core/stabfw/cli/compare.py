"""`stabfw compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stabfw.errors import DataError, RunError

if TYPE_CHECKING:
    from stabfw.metrics import Outcomes


@click.command("compare", short_help="Compare two runs, or two files of answers.")
@click.argument("baseline")
@click.argument("variant")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(baseline: str, variant: str, as_json: bool) -> None:
    """Compare the answers of BASELINE and VARIANT, question by question.

    Each is either a directory that `stabfw run` wrote, with `:STACK` to pick a stack, or a JSONL
    file with one object a line: `id`, `answer`, `gold` (a text or a list), and where they are
    known `text`, `cluster` and `correct`. Questions are paired by id, never by position. For
    files made elsewhere the pairing is unverified: nothing proves that equal ids were asked the
    same question.

    \b
    Examples:
      stabfw compare before.jsonl after.jsonl
      stabfw compare runs/monday runs/friday
      stabfw compare runs/demo:hqq-4bit runs/demo:fastv-50
    """
    from stabfw.metrics import Counts, PairingError, pair, stability_metrics

    from .tables import metrics_table, terminal

    sides = [_sides(baseline), _sides(variant)]
    common = sides[0].keys() & sides[1].keys()
    if not common:
        raise RunError(
            f"nothing to compare: {baseline} has {', '.join(sides[0]) or 'nothing'}; "
            f"{variant} has {', '.join(sides[1]) or 'nothing'}"
        )
    from rich.markup import escape

    console = terminal()
    found: dict[str, Any] = {}
    for name in (n for n in sides[0] if n in common):
        ours, theirs = sides[0][name], sides[1][name]
        try:
            pairs = pair(ours, theirs)
        except PairingError as error:
            raise DataError(f"{baseline} and {variant}, {name}: {error}") from error
        metrics = stability_metrics(pairs)
        verified = ours.input_hash is not None and theirs.input_hash is not None
        changed = pairs.instance_id[pairs.changed].tolist()
        missing = Counts.of(pairs).n_missing
        found[name] = {
            "pairing": "verified" if verified else "unverified",
            "missing": missing,
            "metrics": {key: [m.value, m.low, m.high, m.n] for key, m in metrics.items()},
            "changed": changed,
        }
        if as_json:
            continue
        how = "" if verified else " (pairing unverified)"
        console.print(metrics_table(escape(f"{name}{how}: {len(pairs)} questions"), metrics))
        if missing:
            console.print(f"[yellow]questions without an answer on one side: {missing}[/]")
        rows = list(zip(changed, *_answers(pairs), strict=True))
        for instance_id, before, after in rows[:20]:
            line = escape(f"  {instance_id}: {before!r} → {after!r}")
            console.print(line, highlight=False)
        if len(rows) > 20:
            console.print(f"  … and {len(rows) - 20} more; --json lists all")
    if as_json:
        click.echo(json.dumps(found, indent=1))


def _answers(pairs: Any) -> tuple[list[Any], list[Any]]:
    changed = pairs.changed
    return pairs.base.answer[changed].tolist(), pairs.variant.answer[changed].tolist()


def _sides(name: str) -> dict[str, Outcomes]:
    """The outcome tables that an argument names, by what both sides must share."""
    if Path(name).is_file():
        return {"answers": _read_jsonl(Path(name))}
    directory, _, stack = name.partition(":")
    if not (Path(directory) / "spec.yaml").is_file():
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


def _read_jsonl(path: Path) -> Outcomes:
    from stabfw.components import normalised
    from stabfw.metrics import Outcomes

    try:
        # An answer may hold other characters that `splitlines` takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except ValueError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
        lacking = [k for k in ("id", "answer", "gold") if not isinstance(row, dict) or k not in row]
        if lacking:
            raise DataError(f"{path}:{number}: lacks {', '.join(lacking)}: {line[:80]}")
        gold = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
        answer = None if row["answer"] is None else normalised(str(row["answer"]))
        right = row.get("correct")
        if right is None:
            right = answer in {normalised(str(item)) for item in gold}
        elif not isinstance(right, bool):
            raise DataError(f"{path}:{number}: `correct` must be true or false: {line[:80]}")
        rows.append((row, answer or None, right))
    if not rows:
        raise DataError(f"{path}: no answers in it")
    return Outcomes.from_columns(
        [str(row["id"]) for row, _, _ in rows],
        answer=[answer for _, answer, _ in rows],
        correct=[right and answer is not None for _, answer, right in rows],
        cluster=[str(row.get("cluster", row["id"])) for row, _, _ in rows],
        text=[str(row.get("text", row["answer"]) or "") for row, _, _ in rows],
        status=["ok" if answer is not None else "empty" for _, answer, _ in rows],
    )
