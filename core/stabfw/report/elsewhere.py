"""Two files of answers as results, so that they get the pages that a run gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from stabfw.imports import Answers, Given
from stabfw.metrics import Counts, Pairs, flip_causes, proportion_metric, stability_metrics
from stabfw.metrics.pairs import Side
from stabfw.plan.conditions import BASELINE, CLEAN
from stabfw.report.across import THRESHOLDS
from stabfw.report.instances import AnswerGiven, InstanceRow
from stabfw.report.results import CellResult, Comparison, Condition, Results, Role


def results_of(
    pairs: Pairs, base: Answers, variant: Answers, notices: Sequence[str], name: str
) -> Results:
    """Compute the results of a pair of files.

    Args:
        pairs: Their joined outcomes.
        base: The baseline.
        variant: The side under test.
        notices: What every page has to show.
        name: Heading of the pages.
    """
    task = str(base.about.get("task") or "answers")
    model = str(base.about.get("model") or base.name)
    baseline = Condition(model, BASELINE, task, CLEAN, 0, Role.BASELINE)
    other = str(variant.about.get("model") or variant.name)
    if other == model:
        other = variant.name
    condition = Condition(model, other, task, CLEAN, 0, Role.STACK)
    causes = asdict(flip_causes(pairs))
    comparison = Comparison(
        key=variant.name,
        base_key=base.name,
        condition=condition,
        metrics=stability_metrics(pairs),
        floor={},
        counts=Counts.of(pairs),
        causes=causes,
    )
    return Results(
        name=name,
        spec_hash="",
        estimand="elsewhere",
        cells=(
            _cell(baseline, base, pairs.base, pairs),
            _cell(condition, variant, pairs.variant, pairs),
        ),
        comparisons=(comparison,),
        notices=tuple(notices),
        thresholds=THRESHOLDS,
    )


def rows_of(pairs: Pairs, base: Answers, variant: Answers) -> Iterator[InstanceRow]:
    """Yield every instance of a pair of files."""
    sides = [{row.id: row for row in answers.rows} for answers in (base, variant)]
    for place, instance_id in enumerate(pairs.instance_id.tolist()):
        known = sides[0].get(instance_id) or sides[1][instance_id]
        kind = str(pairs.kind[place])
        yield InstanceRow(
            instance_id=instance_id,
            cluster=str(pairs.cluster[place]),
            slices={},
            question=known.question,
            gold=" | ".join(known.gold),
            base=_given(sides[0], instance_id, pairs.base, place),
            variant=_given(sides[1], instance_id, pairs.variant, place),
            kind=kind,
            cause=str(pairs.cause[place]) if kind != "none" else "",
        )


def _given(rows: Mapping[str, Given], instance_id: str, side: Side, place: int) -> AnswerGiven:
    row = rows.get(instance_id)
    if row is None:
        return AnswerGiven(text="", answer="", status="missing", correct=False)
    return AnswerGiven(row.text, row.answer or "", row.status, bool(side.correct[place]))


def _cell(condition: Condition, answers: Answers, side: Side, pairs: Pairs) -> CellResult:
    usable = side.usable
    return CellResult(
        key=answers.name,
        condition=condition,
        accuracy=proportion_metric("accuracy", side.correct[usable], pairs.cluster_codes[usable]),
        facts={"instances": len(answers.rows), **answers.about},
    )
