"""Results to MLflow: one run for the experiment, one below it for each cell.

MLflow holds a copy. Publishing again finds the runs by their tags and brings them up to date.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stabfw.metrics import Verdict, combined
from stabfw.plan.conditions import Condition, Role
from stabfw.report import layout
from stabfw.report.gates import title
from stabfw.report.instances import changes, read_instances
from stabfw.report.page import summary
from stabfw.report.results import CellResult, Comparison, GateResult, Judged, Results
from stabfw.report.wording import (
    KINDS,
    badness,
    interval,
    is_control,
    percent,
    points,
    value_of,
    verdict,
)
from stabfw.tracking import table
from stabfw.tracking.columns import VIEW, cell_columns, comparison_columns, summary_columns
from stabfw.tracking.links import VIEW_KEY, Published
from stabfw.tracking.reach import experiment_id, reaching

TRACES = 120
_DIGEST = "stabfw.digest"
_PUBLISHED = "stabfw.published"


def publish(
    results: Results, directory: Path, uri: str, images: str = "none", *, traces: int = TRACES
) -> Published:
    """Log results to MLflow.

    Each cell becomes a run with parameters, metrics (`stabfw.tracking.columns` names them), tags
    and whatever pages and tables `directory` has of it. Runs that are up to date are left alone.

    Args:
        results: The results.
        directory: The directory of the run, with `report.html` and `cells/`.
        uri: Tracking URI.
        images: `none` keeps pictures out of the traces; pages are sent as they are.
        traces: How many single answers to send at most, so that runs can be compared answer
            by answer; each costs a tenth of a second or two.

    Returns:
        Where everything is.

    Raises:
        RunError: If MLflow is not installed, cannot be reached or refuses.

    Example:
        >>> publish(results, Path("runs/demo"), "sqlite:///mlflow.db")  # doctest: +SKIP
    """
    with reaching(uri):
        return _Publisher(results, directory, uri, images).publish(traces)


@dataclass(frozen=True)
class _Entry:
    """What one run is to hold."""

    condition: Condition
    key: str
    cell: CellResult | None
    comparison: Comparison | None

    @property
    def name(self) -> str:
        return layout.slug(self.condition)


@dataclass(frozen=True)
class _Content:
    """The content of a run, ready to be logged."""

    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()

    @property
    def digest(self) -> str:
        found = hashlib.sha256(json.dumps([self.params, self.metrics, self.tags]).encode())
        for path in self.files:
            found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()[:16]


class _Publisher:
    def __init__(self, results: Results, directory: Path, uri: str, images: str) -> None:
        from mlflow import MlflowClient

        self._results = results
        self._directory = directory
        self._uri = uri
        self._images = images
        self._client = MlflowClient(tracking_uri=uri)
        self._created = 0
        self._updated = 0

    def publish(self, traces: int) -> Published:
        with TemporaryDirectory() as scratch:
            return self._publish(traces, Path(scratch))

    def _publish(self, traces: int, scratch: Path) -> Published:
        results = self._results
        experiment = experiment_id(self._client, self._uri, results.name)
        there = {_identity(run): run for run in self._runs(experiment)}
        parent = self._ensure(experiment, there, ("", ""), results.name, _parent_tags(results))
        runs: dict[str, str] = {}
        ids: dict[str, str] = {}
        for entry in _entries(results):
            tags = _cell_tags(entry, results, parent)
            identity = (entry.key, entry.name)
            run = self._ensure(experiment, there, identity, entry.condition.label, tags)
            runs[entry.name] = run
            ids.setdefault(entry.key, run)
            if entry.comparison is not None:
                tags["stabfw.base_run"] = ids.get(entry.comparison.base_key, "")
            files = _files(entry, self._directory, scratch)
            content = _cell_content(entry, results, tags, files)
            self._log(run, there.get(identity), content)
            self._log_dataset(run, there.get(identity), entry)
        self._retire(there, {parent, *runs.values()})
        missing = 0
        sent = False
        if traces:
            from stabfw.tracking.traces import send_traces

            sent, missing = send_traces(
                self._client, experiment, results, self._directory, runs, ids, self._images, traces
            )
        published = self._published(experiment, parent, runs, ids, sent, missing)
        self._log(parent, there.get(("", "")), self._parent_content(published))
        self._client.set_tag(parent, _PUBLISHED, published.dump())
        self._client.set_experiment_tag(
            experiment, f"mlflow.sharedViewState.{VIEW_KEY}", _view(parent)
        )
        return published

    def _runs(self, experiment: str) -> Iterator[Any]:
        """Find what was published of this spec before."""
        token: str | None = None
        query = f"tags.\"stabfw.spec\" = '{self._results.spec_hash}'"
        while True:
            page = self._client.search_runs([experiment], query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _ensure(
        self,
        experiment: str,
        there: Mapping[tuple[str, str], Any],
        identity: tuple[str, str],
        name: str,
        tags: Mapping[str, str],
    ) -> str:
        """Return the id of the run with this identity, new or not."""
        if (run := there.get(identity)) is not None:
            return str(run.info.run_id)
        self._created += 1
        new = self._client.create_run(experiment, tags=dict(tags), run_name=name)
        return str(new.info.run_id)

    def _log(self, run_id: str, known: Any | None, content: _Content) -> None:
        from mlflow.entities import Metric, Param, RunTag

        digest = content.digest
        if known is not None:
            finished = known.info.status == "FINISHED"
            if finished and known.data.tags.get(_DIGEST) == digest:
                return
            self._updated += 1
        now = int(time.time() * 1000)
        old = known.data.params if known is not None else {}
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in content.metrics.items()],
            # A parameter cannot be written twice.
            params=[Param(name, v) for name, v in content.params.items() if name not in old],
            tags=[RunTag(name, value) for name, value in content.tags.items()],
        )
        for path in content.files:
            self._client.log_artifact(run_id, str(path))
        # Last, so that a run that was cut short is not taken for complete.
        self._client.set_tag(run_id, _DIGEST, digest)
        self._client.set_terminated(run_id, "FINISHED")

    def _log_dataset(self, run_id: str, known: Any | None, entry: _Entry) -> None:
        if known is not None and known.inputs.dataset_inputs:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        at = entry.condition
        facts = {} if entry.cell is None else entry.cell.facts
        given = facts.get("inputs_digest")
        content = repr((at.benchmark, at.perturbation, at.seed))
        digest = str(given) if given else hashlib.sha256(content.encode()).hexdigest()
        dataset = Dataset(
            name=f"{at.benchmark}, {at.perturbation}",
            digest=digest[:16],
            source_type="local",
            source="{}",
        )
        context = InputTag("mlflow.data.context", "evaluation")
        self._client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def _retire(self, there: Mapping[tuple[str, str], Any], current: set[str]) -> None:
        """Mark runs of cells that are no longer part of the results, and end them."""
        for run in there.values():
            if run.info.run_id in current:
                continue
            if run.data.tags.get("stabfw.current") != "no":
                self._client.set_tag(run.info.run_id, "stabfw.current", "no")
            if run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _parent_content(self, published: Published) -> _Content:
        results = self._results
        names = (
            *(layout.REPORT, layout.FOREST, layout.FOREST_SVG, layout.SPEC, layout.RESULTS),
            *(layout.VERDICT, layout.JUNIT, layout.SUMMARY),
        )
        metrics = {
            "cells": float(len(results.cells)),
            "comparisons": float(len(results.comparisons)),
            "failures": float(len(results.failures)),
            **summary_columns(results),
        }
        for each in Verdict if results.gates else ():
            # By verdict, so that runs can be sorted and filtered in lists.
            found = sum(c.verdict is each for gate in results.gates for c in gate.cells)
            metrics[f"gates_{each}"] = float(found)
        return _Content(
            params={"estimand": results.estimand},
            metrics=metrics,
            tags=_parent_tags(results),
            files=[path for name in names if (path := self._directory / name).is_file()],
        )

    def _published(
        self,
        experiment: str,
        parent: str,
        runs: Mapping[str, str],
        ids: Mapping[str, str],
        traces: bool,
        missing: int,
    ) -> Published:
        stacks = [c for c in self._results.comparisons if not is_control(c)]
        worst = max(stacks, key=badness, default=None)
        return Published(
            uri=self._uri,
            name=self._results.name,
            experiment_id=experiment,
            parent=parent,
            runs=runs,
            compared=tuple(runs[layout.slug(c.condition)] for c in stacks),
            worst=runs[layout.slug(worst.condition)] if worst else "",
            worst_base=ids.get(worst.base_key, "") if worst else "",
            worst_label=worst.condition.label if worst else "",
            traces=traces,
            created=self._created,
            updated=self._updated,
            missing_traces=missing,
        )


def _identity(run: Any) -> tuple[str, str]:
    tags = run.data.tags
    return tags.get("stabfw.cell_key", ""), tags.get("stabfw.cell", "")


def _entries(results: Results) -> list[_Entry]:
    """Return what becomes a run, baselines first because the others refer to them."""
    cells = {(c.key, c.condition): c for c in results.cells}
    comparisons = {(c.key, c.condition): c for c in results.comparisons}
    entries = [
        _Entry(condition, key, cells.get((key, condition)), comparisons.get((key, condition)))
        for key, condition in {**cells, **comparisons}
    ]
    return sorted(entries, key=lambda entry: entry.condition.role is not Role.BASELINE)


def _gate_tags(results: Results) -> dict[str, str]:
    """The verdict over all, and of each gate with its name."""
    if results.verdict is None:
        return {}
    told = {f"stabfw.gate.{i}": f"{title(g)}: {g.verdict}" for i, g in enumerate(results.gates)}
    return {"stabfw.verdict": results.verdict.value, **told}


def _judged(results: Results, condition: Condition) -> dict[int, tuple[GateResult, Judged]]:
    """What the gates say of one cell, by the number of the gate."""
    return {
        index: (gate, cell)
        for index, gate in enumerate(results.gates)
        for cell in gate.cells
        if cell.condition == condition
    }


def _parent_tags(results: Results) -> dict[str, str]:
    return {
        **_gate_tags(results),
        "stabfw.kind": "experiment",
        "stabfw.spec": results.spec_hash,
        "stabfw.estimand": results.estimand,
        "mlflow.source.name": "stabfw",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _parent_note(results),
    }


def _cell_tags(entry: _Entry, results: Results, parent: str) -> dict[str, str]:
    at = entry.condition
    judged = _judged(results, at)
    verdicts = {f"stabfw.gate.{i}": cell.verdict.value for i, (_, cell) in judged.items()}
    if judged:
        verdicts["stabfw.verdict"] = combined(cell.verdict for _, cell in judged.values()).value
    return {
        **verdicts,
        "stabfw.kind": "cell",
        "stabfw.current": "yes",
        "stabfw.spec": results.spec_hash,
        "stabfw.cell_key": entry.key,
        "stabfw.cell": entry.name,
        "stabfw.role": str(at.role),
        "stabfw.stack": at.stack,
        "stabfw.model": at.model,
        "stabfw.benchmark": at.benchmark,
        "stabfw.perturbation": at.perturbation,
        "stabfw.seed": str(at.seed),
        "stabfw.estimand": results.estimand,
        "mlflow.parentRunId": parent,
        "mlflow.source.name": "stabfw",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _cell_note(entry, results),
    }


def _cell_content(
    entry: _Entry, results: Results, tags: dict[str, str], files: Sequence[Path]
) -> _Content:
    at = entry.condition
    params = {
        "stack": at.stack,
        "perturbation": at.perturbation,
        "benchmark": at.benchmark,
        "model": at.model,
        "role": str(at.role),
        "seed": str(at.seed),
    }
    params |= {"repeat": str(at.repeat)} if at.repeat else {}
    params |= {"circumstance": at.circumstance} if at.circumstance else {}
    metrics = cell_columns(entry.cell) if entry.cell is not None else {}
    metrics |= comparison_columns(entry.comparison) if entry.comparison is not None else {}
    for index, (gate, cell) in _judged(results, at).items():
        if cell.estimate is not None:
            # What is held against the limit.
            bound = cell.estimate.low if gate.at_least else cell.estimate.high
            metrics[f"gate_{index}_bound"] = bound
    if any(path.name == table.NAME for path in files):
        # What `log_table` would set; it would append to the table each time.
        tags["mlflow.loggedArtifacts"] = json.dumps([{"path": table.NAME, "type": "table"}])
    return _Content(params, metrics, tags, files)


def _files(entry: _Entry, directory: Path, scratch: Path) -> list[Path]:
    """Return the page and the tables of a comparison, as far as they were written."""
    if entry.comparison is None:
        return []
    folder = layout.cell_directory(directory, entry.condition)
    found = [path for name in (layout.FLIPS, layout.INSTANCES) if (path := folder / name).is_file()]
    if (instances := folder / layout.INSTANCES).is_file():
        flips = scratch / entry.name / table.NAME
        flips.parent.mkdir()
        table.flips_table(changes(read_instances(instances)), flips)
        found.append(flips)
    return found


def _parent_note(results: Results) -> str:
    lines = [*summary(results), ""]
    lines += [f"- {title(gate)}: {gate.verdict}" for gate in results.gates] + [""]
    lines += [f"> {notice}" for notice in results.notices]
    heads = ["stack", "inputs", "accuracy change", "answers changed", "noise floor"]
    heads += ["self floor"] if any(c.self_floor for c in results.comparisons) else []
    heads += ["right answers lost"]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [_note_row(c, heads) for c in results.comparisons]
    lines += ["", f"{results.estimand} comparison. The page `report.html` has it all."]
    return "\n".join(lines)[:4900]


def _note_row(comparison: Comparison, heads: Sequence[str]) -> str:
    metrics = comparison.metrics
    changed, lost = metrics.get("divergence_ratio"), metrics.get("correct_loss_rate")
    read = comparison.label_preserved
    floor, self_floor = (
        percent(value)
        if (value := value_of(comparison, "divergence_ratio", among)) is not None
        else ""
        for among in (comparison.floor, comparison.self_floor)
    )
    delta = points(value_of(comparison, "accuracy_delta"))
    cells = {
        "stack": comparison.condition.stack,
        "inputs": comparison.condition.perturbation,
        "accuracy change": delta if read else "not read",
        "answers changed": f"{percent(changed.value)} {interval(changed)}" if changed else "",
        "noise floor": floor,
        "self floor": self_floor,
        "right answers lost": (f"{percent(lost.value)} {interval(lost)}" if lost else "")
        if read
        else "not read",
    }
    return "| " + " | ".join(cells[head].replace("|", "\\|") for head in heads) + " |"


def _cell_note(entry: _Entry, results: Results) -> str:
    if entry.comparison is None:
        metric = entry.cell.accuracy if entry.cell else None
        accuracy = f"{percent(metric.value)} {interval(metric)}" if metric else ""
        return f"{entry.condition.role}: accuracy {accuracy}".rstrip()
    lines = [verdict(entry.comparison), ""]
    lines += [f"> {notice}" for notice in results.notices]
    counts = entry.comparison.counts
    numbers = (counts.n_ci, counts.n_ic, counts.n_ii_diff, counts.n_cc_diff)
    lines += ["", "| what changed | answers |", "|---|---|"]
    if entry.comparison.label_preserved:
        for (name, arrow), number in zip(KINDS.values(), numbers, strict=True):
            lines.append(f"| {name} ({arrow}) | {number} |")
    else:
        lines.append(f"| changed | {counts.n_changed} |")
    lines += [f"| all compared | {counts.n} |", ""]
    lines.append(f"{results.estimand} comparison. Every changed answer is in `flips.html`.")
    return "\n".join(lines)[:4900]


def _view(parent: str) -> str:
    """Return the saved view of the list of runs, in the form that MLflow 3.17 keeps it."""
    columns = [f"params.`{name}`" for name in ("stack", "perturbation", "benchmark", "model")]
    columns += [f"metrics.`{name}`" for name in VIEW]
    state = {
        "searchFilter": (
            f"tags.\"mlflow.parentRunId\" = '{parent}' and tags.\"stabfw.current\" = 'yes' "
            f"and tags.\"stabfw.role\" != '{Role.FLOOR}'"
        ),
        "orderByKey": "metrics.`loss`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = int(time.time() * 1000)
    view = {"name": "Stability", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return json.dumps(view)
