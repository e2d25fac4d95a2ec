"""The directory of a run: numbers, pages and tables that can be made anew at any time."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from math import isnan
from pathlib import Path

from stabfw.components import Prediction
from stabfw.components.data import Answer
from stabfw.components.files import write_atomic
from stabfw.errors import DataError
from stabfw.execute.inputs import Inputs
from stabfw.metrics.foresight import parts
from stabfw.report.flips import flips_page
from stabfw.report.forest import forest_page, forest_svg
from stabfw.report.gates import write_verdict
from stabfw.report.instances import AnswerGiven, InstanceRow, changes, instances_parquet
from stabfw.report.layout import (
    CELLS,
    CHANGES,
    FLIPS,
    FOREST,
    FOREST_SVG,
    INSTANCES,
    REPORT,
    RESULTS,
    cell_directory,
)
from stabfw.report.measure import CellOutcomes, Measured
from stabfw.report.page import report_page
from stabfw.report.results import Change, Comparison, Results
from stabfw.report.serialise import save_results
from stabfw.report.thumbnails import thumbnail
from stabfw.report.wording import value_of


def write_report(measured: Measured, directory: Path, images: str) -> None:
    """Write the pages and tables of a run.

    Args:
        measured: Results and the outcomes behind them.
        directory: The directory of the run; what an earlier run left there is replaced.
        images: `none`, `thumbnails` or `full`: whether pictures are put into pages. Those of
            private benchmarks never are.
    """
    inputs = Inputs()
    write_pages(measured.results, lambda c: _rows(measured, c, inputs, images), directory)


def write_pages(
    results: Results, rows_of: Callable[[Comparison], Iterable[InstanceRow]], directory: Path
) -> None:
    """Write pages and tables; `results.json` comes last, so its presence means all is there.

    Args:
        results: The numbers.
        rows_of: Gives the instances of a comparison.
        directory: Where to; what is there already is replaced.
    """
    (directory / RESULTS).unlink(missing_ok=True)
    shutil.rmtree(directory / CELLS, ignore_errors=True)
    tables = importlib.util.find_spec("pyarrow") is not None
    for comparison in results.comparisons:
        folder = cell_directory(directory, comparison.condition)
        rows = list(rows_of(comparison))
        changed = changes(rows)
        page = flips_page("", comparison, changed, results.notices, results.estimand)
        write_atomic(folder / FLIPS, page.encode())
        write_atomic(folder / CHANGES, "".join(map(_line, changed)).encode())
        if tables:
            instances_parquet(rows, folder / INSTANCES)
    write_verdict(results, directory)
    write_atomic(directory / FOREST_SVG, forest_svg(results).encode())
    write_atomic(directory / FOREST, forest_page(results).encode())
    write_atomic(directory / REPORT, report_page(results).encode())
    save_results(results, directory / RESULTS)


def _rows(
    measured: Measured, comparison: Comparison, inputs: Inputs, images: str
) -> Iterator[InstanceRow]:
    pairs = measured.pairs[comparison.condition]
    base = measured.outcomes[comparison.base_key]
    variant = measured.outcomes[comparison.key]
    row_of = {row.id: row for row in variant.cell.dataset.rows}
    foreseen = _foresight(measured, comparison)
    recorded = [_recorded(side) for side in (base, variant)]
    for place, instance_id in enumerate(pairs.instance_id.tolist()):
        row = row_of[instance_id]
        kind = str(pairs.kind[place])
        changed = kind != "none"
        question, picture = row.question, b""
        if changed:
            question, picture = _shown(variant, inputs, instance_id, images)
        yield InstanceRow(
            instance_id=instance_id,
            cluster=row.cluster,
            slices=row.slices,
            question=question,
            gold=row.gold,
            base=_given(base, instance_id, recorded[0]),
            variant=_given(variant, instance_id, recorded[1]),
            kind=kind,
            cause=str(pairs.cause[place]) if changed else "",
            strength=base.strengths.get(instance_id),
            foresight_part=foreseen[place][0],
            foresight_covered=foreseen[place][1],
            thumbnail=picture,
        )


def _foresight(measured: Measured, comparison: Comparison) -> list[tuple[str, bool | None]]:
    """In which part of the foresight each instance is, and whether its margin suffices."""
    pairs, rule = measured.pairs[comparison.condition], measured.results.foresight
    threshold = value_of(comparison, "foresight_threshold")
    if rule is None or "foresight_threshold" not in comparison.metrics:
        return [("", None)] * len(pairs)
    divided = parts(pairs, rule)
    return [
        (
            "fit" if fit else "check" if check else "",
            None if threshold is None or isnan(margin) else bool(margin >= threshold),
        )
        for margin, fit, check in zip(divided.margin, divided.fit, divided.check, strict=True)
    ]


def _shown(
    outcomes: CellOutcomes, inputs: Inputs, instance_id: str, images: str
) -> tuple[str, bytes]:
    """The question as it was asked after perturbation, and its first picture."""
    cell = outcomes.cell
    instance = inputs.perturbed(cell, instance_id)
    question = cell.dataset.benchmark.render(instance)
    hidden = images == "none" or cell.dataset.benchmark.private
    if hidden or not instance.images:
        return question, b""
    try:
        pixels = instance.images[0].pixels
    except DataError:
        return question, b""
    return question, thumbnail(pixels, 1024) if images == "full" else thumbnail(pixels)


def _line(change: Change) -> str:
    values = {key: value for key, value in asdict(change).items() if key != "thumbnail"}
    return json.dumps(values, ensure_ascii=False) + "\n"


def _recorded(outcomes: CellOutcomes) -> dict[str, dict[str, tuple[float, ...]]]:
    """What metrics had recorded, by instance id and name."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for recorder in outcomes.cell.recorders:
        for instance_id, numbers in outcomes.recorded(recorder).items():
            found.setdefault(instance_id, {}).update(recorder.named(numbers))
    return found


def _given(
    outcomes: CellOutcomes,
    instance_id: str,
    recorded: Mapping[str, Mapping[str, tuple[float, ...]]],
) -> AnswerGiven:
    if instance_id not in outcomes.predictions:
        return AnswerGiven(text="", answer="", status="missing", correct=False)
    prediction: Prediction = outcomes.predictions[instance_id][1]
    answer: Answer
    answer, score = outcomes.scores[instance_id]
    return AnswerGiven(
        text=prediction.text or prediction.error,
        answer=answer.value or "",
        status=answer.status.value,
        correct=score.correct,
        margin=prediction.margin,
        token_ids=prediction.token_ids,
        visual_tokens=prediction.visual_tokens,
        token_depths=tuple(prediction.token_depths),
        options=prediction.options,
        options_logprob=prediction.options_logprob,
        prefill_ms=prediction.prefill_ms,
        decode_ms=prediction.decode_ms,
        recorded=recorded.get(instance_id, {}),
    )
