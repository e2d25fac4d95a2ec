"""Single answers as MLflow traces, so that two runs can be compared answer by answer.

"Evaluation runs" shows the traces of two runs side by side, matched by the preview of the
request. This is the only module that reaches into the tracing parts of MLflow, of which some are
not public: it was tried with MLflow 3.17.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stabfw.plan.conditions import Condition
from stabfw.report.flips import most_telling
from stabfw.report.instances import UNCHANGED, AnswerGiven, InstanceRow, changes, read_instances
from stabfw.report.layout import INSTANCES, cell_directory, slug
from stabfw.report.results import Results
from stabfw.report.thumbnails import media_type
from stabfw.report.wording import badness, is_control

MOST_CHANGED = 16
UNCHANGED_TOO = 4
_SENT = "stabfw.traces"


def send_traces(
    client: Any,
    experiment: str,
    results: Results,
    directory: Path,
    runs: Mapping[str, str],
    ids: Mapping[str, str],
    images: str,
    most: int,
) -> tuple[bool, int]:
    """Send the same instances of a baseline and of the stacks that are compared with it.

    A trace costs a tenth of a second or two, so these are `MOST_CHANGED` instances that some
    stack changed and `UNCHANGED_TOO` that none did, and the stacks that lost the most come
    first. Runs that have their traces are left alone.

    Args:
        client: An `MlflowClient`.
        experiment: Id of the experiment.
        results: The results.
        directory: The directory of the run, with the tables of instances.
        runs: Run ids by the name of the cell's directory.
        ids: Run ids by cell key.
        images: `none` keeps pictures out.
        most: Number of traces in all that is not exceeded.

    Returns:
        Whether there are traces, and how many of them did not arrive.
    """
    sent, missing = False, 0
    with _tracing(client.tracking_uri):
        for base_key, group in _groups(results, directory, most, set(ids)).items():
            chosen = _choose(list(group.values()))
            first = next(iter(group.values()))
            by_run = {ids[base_key]: [(r, r.base) for i in chosen if (r := first.get(i))]}
            for condition, rows in group.items():
                pairs = [(r, r.variant) for i in chosen if (r := rows.get(i))]
                by_run[runs[slug(condition)]] = pairs
            for run_id, answers in by_run.items():
                missing += _send(client, experiment, run_id, answers, images != "none")
                sent = True
    return sent, missing


def _groups(
    results: Results, directory: Path, most: int, baselines: set[str]
) -> dict[str, dict[Condition, dict[str, InstanceRow]]]:
    """Return the instances of the stacks by the key of the baseline that they share."""
    groups: dict[str, dict[Condition, dict[str, InstanceRow]]] = {}
    cells = most // (MOST_CHANGED + UNCHANGED_TOO)
    for c in sorted(results.comparisons, key=badness, reverse=True):
        path = cell_directory(directory, c.condition) / INSTANCES
        if is_control(c) or not c.counts.n_changed or not path.is_file():
            continue
        cost = 1 if c.base_key in groups else 2
        if c.base_key in baselines and cost <= cells:
            cells -= cost
            rows = {row.instance_id: row for row in read_instances(path)}
            groups.setdefault(c.base_key, {})[c.condition] = rows
    return groups


def _choose(tables: Sequence[Mapping[str, InstanceRow]]) -> list[str]:
    """Pick instances: from each stack in turn its most telling change, then some unchanged."""
    ranked = [
        [c.instance_id for c in sorted(changes(rows.values()), key=most_telling)] for rows in tables
    ]
    deepest = max(map(len, ranked), default=0)
    turns = (row[turn] for turn in range(deepest) for row in ranked if turn < len(row))
    changed = list(dict.fromkeys(turns))
    everywhere = [i for i in tables[0] if all(i in t and t[i].kind == UNCHANGED for t in tables)]
    # By hash, so that the sample depends on no order and stays the same from run to run.
    others = sorted(everywhere, key=lambda i: hashlib.sha256(i.encode()).digest())
    return changed[:MOST_CHANGED] + others[:UNCHANGED_TOO]


def _send(
    client: Any,
    experiment: str,
    run_id: str,
    answers: Sequence[tuple[InstanceRow, AnswerGiven]],
    pictures: bool,
) -> int:
    """Make the traces of a run these, and return how many are missing afterwards."""
    digest = hashlib.sha256(repr((answers, pictures)).encode()).hexdigest()[:16]
    tags = client.get_run(run_id).data.tags
    if tags.get(_SENT) == digest:
        return 0
    if old := _found(client, experiment, run_id):
        client.delete_traces(experiment, trace_ids=old)
    client.set_tag(run_id, "mlflow.runType", "genai_evaluate")
    # The newest is listed first, and the changed answers are the first here.
    for row, given in reversed(answers):
        _trace(experiment, run_id, row, given, pictures)
    missing = len(answers) - len(_found(client, experiment, run_id))
    if not missing:
        client.set_tag(run_id, _SENT, digest)
    return missing


def _found(client: Any, experiment: str, run_id: str) -> list[str]:
    query = {"locations": [experiment], "run_id": run_id, "include_spans": False}
    return [t.info.trace_id for t in client.search_traces(max_results=500, **query)]


def _trace(
    experiment: str, run_id: str, row: InstanceRow, given: AnswerGiven, pictures: bool
) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource, Expectation, Feedback
    from mlflow.tracing.attachments import Attachment
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    inputs: dict[str, object] = {"question": row.question, "instance_id": row.instance_id}
    if pictures and row.thumbnail:
        inputs["image"] = Attachment(
            content_type=media_type(row.thumbnail), content_bytes=row.thumbnail
        )
    answer = given.answer or given.text
    span = mlflow.start_span_no_context(
        "instance",
        inputs=inputs,
        metadata={"mlflow.sourceRun": run_id},
        tags={"stabfw.instance": row.instance_id},
        experiment_id=experiment,
    )
    span.set_outputs({"answer": answer, "text": given.text})
    source = AssessmentSource(source_type="CODE", source_id="stabfw")
    said: dict[str, object] = {"correct": given.correct}
    if given is row.variant:
        said["change"] = row.kind
    if given.margin is not None:
        said["margin"] = round(given.margin, 3)
    why = f"baseline said {row.base.answer!r}, accelerated said {row.variant.answer!r}"
    with InMemoryTraceManager.get_instance().get_trace(span.trace_id) as trace:
        about = {"source": source, "trace_id": span.trace_id}
        # Attached before the end: a trace is not found until it has been stored.
        trace.info.assessments += [
            Feedback(name=name, value=value, rationale=why, **about) for name, value in said.items()
        ]
        trace.info.assessments.append(Expectation(name="gold", value=row.gold, **about))
        # The automatic preview contains the picture's address, so no two would ever match.
        question = " ".join(row.question.split())
        trace.info.request_preview = f"[{row.instance_id}] {question}"
        trace.info.response_preview = answer
    span.end()


@contextmanager
def _tracing(uri: str) -> Iterator[None]:
    """Send traces to this server, each before the next, and restore what was there before."""
    import mlflow

    name = "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"
    before, waiting = mlflow.get_tracking_uri(), os.environ.get(name)
    # Written in the background, some are lost when sqlite is busy.
    os.environ[name] = "false"
    mlflow.set_tracking_uri(uri)
    mlflow.tracing.reset()
    try:
        yield
    finally:
        os.environ.pop(name)
        if waiting is not None:
            os.environ[name] = waiting
        mlflow.set_tracking_uri(before)
        mlflow.tracing.reset()
