"""Running an experiment: plan, compute what is missing, measure, write, publish."""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stabfw.components import Kind
from stabfw.errors import (
    DataError,
    IncompleteError,
    RunError,
    SpecError,
    StabfwError,
    UnsupportedError,
    blaming,
)
from stabfw.execute.messages import WORKER
from stabfw.plan import (
    Cell,
    Condition,
    Fit,
    Plan,
    Role,
    Session,
    gated,
    make_plan,
    refuse_gates,
)
from stabfw.plan.cells import component_fields
from stabfw.registry import Observers, Registry, events
from stabfw.report.layout import (
    CHANGES,
    PUBLISHED,
    REPORT,
    RESULTS,
    SPEC,
    VERDICT,
    cell_directory,
)
from stabfw.spec import (
    CLEAN,
    Controls,
    ExperimentSpec,
    components,
    label,
    load_spec,
    parse_spec,
    to_yaml,
)
from stabfw.store import Store, digest

if TYPE_CHECKING:
    from stabfw.execute import Executor, Message, Task
    from stabfw.metrics import Outcomes, Pairs
    from stabfw.plan import Dataset
    from stabfw.report.canary import Wanted
    from stabfw.report.rescoring import CellChange
    from stabfw.report.results import Failure, Results

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_POLL_S = 0.5


@dataclass(frozen=True)
class Run:
    """What `run` gives back.

    Attributes:
        results: The numbers.
        directory: Pages and tables.
        computed: How many cells had to be computed; 0 if all were in the store.
        unjudged: Why the judge could not be asked everything; empty if it was.
    """

    results: Results
    directory: Path
    computed: int
    unjudged: str = ""


def run(
    spec: ExperimentSpec,
    *,
    registry: Registry | None = None,
    observers: Observers | None = None,
) -> Run:
    """Run an experiment, or what is left of it.

    Cells that are in the store are reused, started ones go on at the next whole batch. Running a
    finished experiment again computes nothing.

    Args:
        spec: What to run, from `load_spec`.
        registry: Where plugins come from; all installed ones by default.
        observers: Who is told what happens; MLflow is added if the spec asks for it.

    Returns:
        The results and where they are.

    Raises:
        StabfwError: If the experiment cannot be run as asked; see `stabfw.errors`.

    Example:
        >>> from stabfw import Registry, load_spec, run
        >>> run(load_spec("spec.yaml", Registry())).results.comparisons  # doctest: +SKIP
    """
    _refuse_import_by_worker()
    registry = registry or Registry()
    observers = _observers(spec, registry, observers)
    directory = _directory(spec)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        refuse_gates(spec, plan)
        if plan.fits:
            _fit(plan.fits, spec, store, observers)
            plan = make_plan(spec, registry, store)
        for cell in plan.cells:
            # What could not be asked may be readable again; its key does not tell.
            store.reopen_errors(cell.key)
        todo = [cell for cell in plan.cells if not _done(store, cell)]
        observers.notify(
            events.PlanReady(
                spec.name,
                cells=len(plan.cells),
                cached=len(plan.cells) - len(todo),
                instances=sum(len(cell.dataset.rows) for cell in todo),
            )
        )
        runner = _Runner(spec, plan, store, observers) if todo else None
        results, unjudged = _conclude(spec, registry, plan, store, runner, directory, observers)
    return Run(results, directory, computed=len(todo), unjudged=unjudged)


@dataclass(frozen=True)
class Rescored:
    """What `rescore` gives back.

    Attributes:
        cells: What changed, by cell.
        run: The results and where they are; None if nothing was kept.
    """

    cells: tuple[CellChange, ...]
    run: Run | None


def rescore(
    spec: ExperimentSpec,
    *,
    registry: Registry | None = None,
    observers: Observers | None = None,
    keep: bool = True,
    examples: int = 3,
) -> Rescored:
    """Read and score the answers of a finished experiment anew; no model is loaded.

    `run` does the same without telling what changed. Answers that are errors stay so. A judge is
    asked only what it was never asked.

    Args:
        spec: The experiment.
        registry: Where plugins come from; all installed ones by default.
        observers: Who is told what happens; MLflow is added if the spec asks for it.
        keep: Whether the store, the run directory and MLflow are brought up to date.
        examples: How many answers to show of each cell that changed.

    Returns:
        What changed, and the results.

    Raises:
        RunError: There is no such store.
        IncompleteError: Some cells are not in the store.
        StabfwError: The data or the store cannot be read.
    """
    from stabfw.report.rescoring import rescored

    registry = registry or Registry()
    _require_store(spec)
    directory = _directory(spec) if keep else spec.runs / spec.name
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        refuse_gates(spec, plan)
        _require_finished(spec, plan, store)
        cells = rescored(plan, store, _scorers(directory), keep=keep, examples=examples)
        if not keep:
            return Rescored(cells, None)
        observers = _observers(spec, registry, observers)
        results, unjudged = _conclude(spec, registry, plan, store, None, directory, observers)
    return Rescored(cells, Run(results, directory, computed=0, unjudged=unjudged))


def gate(
    spec: ExperimentSpec,
    *,
    registry: Registry | None = None,
    observers: Observers | None = None,
) -> Run:
    """Judge a finished experiment by the gates of its spec; no model under test is loaded.

    Results, pages and MLflow are brought up to date, as gates may have changed since the run.

    Args:
        spec: The experiment.
        registry: Where plugins come from; all installed ones by default.
        observers: Who is told what happens; MLflow is added if the spec asks for it.

    Returns:
        The results, with `results.gates`, and where they are.

    Raises:
        SpecError: There are no gates, or one cannot be judged or could never pass.
        RunError: There is no such store.
        IncompleteError: Some cells are not in the store.
        StabfwError: The data or the store cannot be read.
    """
    if not spec.gates:
        raise SpecError(
            f"there are no gates in the spec of '{spec.name}'; add some to it, or give them with "
            "--set 'gates=[{metric: correct_loss_rate, at_most: 0.02}]'"
        )
    registry = registry or Registry()
    _require_store(spec)
    directory = _directory(spec)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        refuse_gates(spec, plan)
        _require_finished(spec, plan, store)
        observers = _observers(spec, registry, observers)
        results, unjudged = _conclude(spec, registry, plan, store, None, directory, observers)
    return Run(results, directory, computed=0, unjudged=unjudged)


def canary(
    spec: ExperimentSpec,
    directory: Path,
    *,
    wanted: Wanted,
    stacks: Sequence[str] = (),
    registry: Registry | None = None,
) -> dict[str, int]:
    """Export questions of a finished experiment that flip easily, as a regression test.

    Args:
        spec: The experiment.
        directory: Where to.
        wanted: How many questions of each group, for each benchmark.
        stacks: Names of the stacks whose flips count; all by default.
        registry: Where plugins come from; all installed ones by default.

    Returns:
        The number of questions in each group.

    Raises:
        SpecError: There is no such stack.
        RunError: Pictures may not leave the store, or there is nothing to export.
        DataError: `custom` would ask something else than was asked.
        IncompleteError: Some cells are not in the store.
    """
    from stabfw.components.files import write_atomic
    from stabfw.metrics import pair
    from stabfw.report import canary as sets
    from stabfw.report.measure import load_outcomes

    if unknown := [name for name in stacks if name not in spec.stacks]:
        raise SpecError(f"there is no stack '{unknown[0]}' in this spec: {', '.join(spec.stacks)}")
    registry = registry or Registry()
    _require_store(spec)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        _require_finished(spec, plan, store)
        done = load_outcomes(plan, store)
    found: dict[str, dict[Condition, Pairs]] = {}
    for at, key in plan.named.items():
        cell = done[key].cell
        if at.role is not Role.STACK or at.perturbation != CLEAN or cell.dataset.free:
            continue
        if not stacks or at.stack in stacks:
            joined = pair(done[plan.base_of[key]].table, done[key].table)
            found.setdefault(at.benchmark, {})[at] = joined
    datasets = {
        cell.dataset.name: cell.dataset for cell in plan.cells if cell.dataset.name in found
    }
    for dataset in datasets.values():
        _require_pictures_may_leave(spec, dataset)
    chosen = [(datasets[name], sets.choose(pairs, wanted)) for name, pairs in found.items()]
    tables = sets.export(chosen, directory, name=spec.name, spec_hash=spec.hash())
    custom = registry.load(Kind.BENCHMARK, "custom")
    for table in tables:
        sets.verify(table, directory, custom)
    again = {
        **spec.dump(),
        "name": f"{spec.name}-canary",
        "benchmarks": [dict(table.config) for table in tables],
        **{"perturbations": [], "gates": [], "published": [], "metrics": [], "judge": None},
        "controls": {"noise_floor": None},
        **{"store": ".stabfw/store", "runs": "runs"},
    }
    write_atomic(directory / SPEC, to_yaml(parse_spec(again, registry)).encode())
    groups = [group for _, picked in chosen for group, _ in picked.values()]
    return {group: groups.count(group) for group in sets.GROUPS}


def _require_pictures_may_leave(spec: ExperimentSpec, dataset: Dataset) -> None:
    if dataset.benchmark.private:
        raise RunError(
            f"the pictures of '{dataset.name}' are private, so they are not exported; say "
            "`private: false` in the benchmark if they may leave"
        )
    if spec.tracking.images != "full":
        raise RunError(
            f"`tracking: {{images: {spec.tracking.images}}}` keeps pictures in place, so those of "
            f"'{dataset.name}' are not exported; if they may leave, say so with --set "
            "tracking.images=full"
        )


def _require_store(spec: ExperimentSpec) -> None:
    if not (spec.store / "outcomes.sqlite").is_file():
        raise RunError(
            f"{spec.store}: there is no store here, so there are no answers; start stabfw in the "
            "directory where the experiment was run, or name the store with --set store=DIR"
        )


def _require_finished(spec: ExperimentSpec, plan: Plan, store: Store) -> None:
    labels = {key: condition.label for condition, key in reversed(list(plan.named.items()))}
    missing = [f"the artefact of {fit.label}" for fit in plan.fits]
    missing += [labels[cell.key] for cell in plan.cells if not _done(store, cell)]
    if missing:
        shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more" if missing[5:] else "")
        raise IncompleteError(
            f"{len(missing)} of {len(plan.cells)} cells of '{spec.name}' are not in the store "
            f"{spec.store}: {shown}. Compute them with `stabfw run`, or see with `stabfw plan "
            "--explain` why finished ones are not reused"
        )


def _scorers(directory: Path) -> list[str]:
    """Versions of the scorers that the results in a run directory were made with."""
    try:
        return list(json.loads((directory / MANIFEST).read_text())["scorers"])
    except (OSError, ValueError, KeyError):
        return []


def _conclude(
    spec: ExperimentSpec,
    registry: Registry,
    plan: Plan,
    store: Store,
    runner: _Runner | None,
    directory: Path,
    observers: Observers,
) -> tuple[Results, str]:
    """Compute what is left, if there is a runner, and bring the results up to date.

    Returns:
        The results, and why the judge could not be asked everything; empty if it was.
    """
    manifest = _manifest(spec, plan, registry)
    if not runner and (known := _unchanged(directory, manifest)) is not None:
        if not (directory / PUBLISHED).exists():
            observers.notify(events.RunEnd(known, directory, spec))
        return known, ""
    observers.notify(events.RunStart(spec.name, directory))
    failures = runner.run() if runner else []
    # Until the results are whole, nothing may vouch for them.
    (directory / MANIFEST).unlink(missing_ok=True)
    plan, unjudged = _ask_judge(plan, store, observers)
    results = _report(spec, registry, plan, store, failures, directory)
    if not failures and not unjudged:
        (directory / MANIFEST).write_text(manifest)
    observers.notify(events.MetricsReady(results))
    observers.notify(events.RunEnd(results, directory, spec))
    return results, unjudged


@dataclass(frozen=True)
class Fitted:
    """An accelerator's artefact.

    Attributes:
        label: What was fitted, for people.
        digest: sha256 of the artefact.
        path: Where it is.
        computed: Whether it was fitted now; it was in the store otherwise.
    """

    label: str
    digest: str
    path: Path
    computed: bool


def fit(
    spec: ExperimentSpec,
    stack: str,
    *,
    registry: Registry | None = None,
    observers: Observers | None = None,
) -> tuple[Fitted, ...]:
    """Fit the accelerators of one stack, as `run` would before it asks anything.

    Args:
        spec: The experiment, with its calibration data.
        stack: Name of the stack.
        registry: Where plugins come from; all installed ones by default.
        observers: Who is told what happens; MLflow is added if the spec asks for it.

    Returns:
        An artefact for each model and each accelerator that has to be fitted.

    Raises:
        SpecError: If there is no such stack.
        UnsupportedError: If the stack cannot work on any of the models.
        StabfwError: If an accelerator cannot be fitted as asked; see `stabfw.errors`.
    """
    if stack not in spec.stacks:
        raise SpecError(f"there is no stack '{stack}' in this spec: {', '.join(spec.stacks)}")
    registry = registry or Registry()
    observers = _observers(spec, registry, observers)
    only = {"stacks": {stack: spec.stacks[stack]}, "controls": Controls(noise_floor=None)}
    with Store(spec.store) as store:
        narrow = spec.model_copy(update=only)
        plan = make_plan(narrow, registry, store)
        if plan.unsupported and not any(c.role is Role.STACK for c in plan.named):
            raise UnsupportedError(f"stack '{stack}': {plan.unsupported[0].reason}")
        new = {item.recipe for item in plan.fits}
        if plan.fits:
            _fit(plan.fits, spec, store, observers)
            plan = make_plan(narrow, registry, store)
        by_key = {cell.key: cell for cell in plan.cells}
        labels = {
            member.recipe: f"{member.type} for {at.model}{at.stack.removeprefix(stack)}"
            for at, key in plan.named.items()
            for member in by_key[key].members
            if member.recipe
        }
        found = {recipe: store.artefact_digest(recipe) for recipe in labels}
        return tuple(
            Fitted(labels[recipe], digest, store.artefact_path(digest), recipe in new)
            for recipe, digest in found.items()
            if digest is not None
        )


def _observers(spec: ExperimentSpec, registry: Registry, observers: Observers | None) -> Observers:
    observers = observers or Observers(registry)
    if spec.tracking.uri is not None and "mlflow" in registry.names(None):
        observers.load("mlflow")
    return observers


def _refuse_import_by_worker() -> None:
    # A worker imports the script that started it; were that to run the experiment again, it
    # would wait for the cells that its parent holds.
    if multiprocessing.current_process().name.startswith(WORKER):
        raise RunError(
            "run() was called while a worker process imported this script; put the call under "
            "`if __name__ == '__main__':`, or use `execution: {executor: inline}`"
        )


class _Runner:
    """Computes the cells of a plan that are not in the store, and is the only one who writes."""

    def __init__(
        self, spec: ExperimentSpec, plan: Plan, store: Store, observers: Observers
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._store = store
        self._observers = observers
        self._cells = {cell.key: cell for cell in plan.cells}
        self._labels = {
            key: condition.label for condition, key in reversed(list(plan.named.items()))
        }
        self._failed: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def run(self) -> list[Failure]:
        from stabfw.report.results import Failure

        executor = self._executor()
        told = False
        while pending := self._pending():
            self._give_up_orphans(pending)
            tasks = self._claim(pending)
            if tasks:
                for message in executor.execute(tasks):
                    self._handle(message)
            elif self._pending():
                if not told:
                    log.warning("waiting for another stabfw that computes the same cells")
                told = True
                time.sleep(_POLL_S)
        return [
            Failure(condition, "failed", self._failed[key])
            for condition, key in self._plan.named.items()
            if key in self._failed
        ]

    def _executor(self) -> Executor:
        from stabfw.execute import InlineExecutor, ProcessExecutor

        execution = self._spec.execution
        if execution.executor == "process":
            return ProcessExecutor(self._spec.dump(), self._store.directory, execution.workers)
        return InlineExecutor(self._store)

    def _pending(self) -> list[str]:
        return [
            key
            for key, cell in self._cells.items()
            if key not in self._failed and not _done(self._store, cell)
        ]

    def _give_up_orphans(self, pending: Sequence[str]) -> None:
        """Fail the cells that score the answers of a cell that failed."""
        for key in pending:
            if (why := self._failed.get(self._cells[key].parent)) is not None:
                reason = f"not run, because the baseline whose answers it scores failed: {why}"
                self._failed[key] = reason
                self._observers.notify(events.CellFailed(key, self._labels[key], reason))

    def _ready(self, session: Session, pending: Sequence[str]) -> list[Cell]:
        """The cells of a session that can be computed now, best all at once."""
        cells = [c for c in session.cells if c.key in pending and c.key not in self._failed]
        if any(cell.parent in pending for cell in cells):
            # What waits for a baseline is done together with its stack, by one load of the
            # model; a baseline in the same session goes ahead.
            awaited = {self._cells[key].parent for key in pending}
            return [cell for cell in cells if cell.key in awaited]
        return cells

    def _claim(self, pending: Sequence[str]) -> list[Task]:
        from stabfw.execute import Task, Todo

        tasks = []
        for session in self._plan.sessions:
            todo = {}
            for cell in self._ready(session, pending):
                if not self._store.claim(cell.key, cell.fields, self._labels[cell.key]):
                    continue
                committed = self._store.committed(cell.key)
                left = tuple(i for i in range(len(cell.batches)) if i not in committed)
                row = self._store.cell(cell.key)
                if left:
                    todo[cell.key] = Todo(left, row.weights if row and committed else "")
                else:
                    self._store.finish(cell.key)
            if todo:
                tasks.append(Task(session, todo))
        return tasks

    def _handle(self, message: Message) -> None:
        from stabfw.execute import Batch, Ended, Started

        cell, name = self._cells[message.key], self._labels[message.key]
        if isinstance(message, Started):
            if message.restart:
                log.warning("%s: the weights came out differently than before; starting anew", name)
                self._store.restart(message.key)
            self._store.begin(message.key, message.weights, message.provenance)
            done = sum(len(cell.batches[i]) for i in self._store.committed(message.key))
            total = len(cell.dataset.rows)
            self._observers.notify(events.CellStart(message.key, name, total, done))
        elif isinstance(message, Batch):
            self._store.commit_batch(
                message.key,
                message.number,
                cell.dataset.scorer,
                message.outcomes,
                message.report,
                message.seconds,
            )
            self._seconds[message.key] = self._seconds.get(message.key, 0.0) + message.seconds
            count = len(message.outcomes)
            self._observers.notify(events.Outcomes(message.key, name, count, message.seconds))
        elif isinstance(message, Ended):
            self._store.finish(message.key)
            seconds = self._seconds.get(message.key, 0.0)
            self._observers.notify(events.CellEnd(message.key, name, seconds))
        else:
            if message.discard:
                self._store.restart(message.key)
            self._store.fail(message.key, message.reason)
            self._failed[message.key] = message.reason
            self._observers.notify(events.CellFailed(message.key, name, message.reason))


def outcomes_of(directory: Path, registry: Registry | None = None) -> dict[Condition, Outcomes]:
    """Return the outcomes of every finished cell of a run as tables, for `stabfw.metrics.pair`.

    Args:
        directory: What `run` wrote.
        registry: Where plugins come from; all installed ones by default.

    Raises:
        StabfwError: If the run's spec, data or store cannot be read.
    """
    from stabfw.report.measure import load_outcomes

    registry = registry or Registry()
    spec = load_spec(directory / SPEC, registry)
    if not spec.store.is_dir():
        raise RunError(
            f"{directory}: its answers are in the store {spec.store}, which is not here; start "
            "stabfw in the directory where the experiment was run"
        )
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        done = load_outcomes(plan, store)
        return {c: done[key].table for c, key in plan.named.items() if key in done}


def _report(
    spec: ExperimentSpec,
    registry: Registry,
    plan: Plan,
    store: Store,
    failures: Iterable[Failure],
    directory: Path,
) -> Results:
    from stabfw.components.files import write_atomic
    from stabfw.metrics import ForesightRule
    from stabfw.report.measure import measure
    from stabfw.report.write import write_report

    measured = measure(
        plan,
        store,
        name=spec.name,
        spec_hash=spec.hash(),
        estimand=spec.compare,
        failures=failures,
        metrics=[(label(c), components(registry, Kind.METRIC, c)) for c in spec.metrics],  # type: ignore[misc]
        published=spec.published,
        gates=gated(spec, plan),
        foresight=ForesightRule(**spec.foresight.model_dump()) if spec.foresight else None,
    )
    (directory / PUBLISHED).unlink(missing_ok=True)
    write_atomic(directory / SPEC, to_yaml(spec).encode())
    write_report(measured, directory, spec.tracking.images)
    return measured.results


def _fit(fits: Sequence[Fit], spec: ExperimentSpec, store: Store, observers: Observers) -> None:
    from stabfw.execute.inputs import Inputs
    from stabfw.execute.session import run_fit

    inputs = Inputs()
    for fit in fits:
        begin = time.monotonic()
        curve: dict[int, Mapping[str, float]] = {}

        def progress(
            done: int,
            total: int,
            values: Mapping[str, float],
            label: str = fit.label,
            curve: dict[int, Mapping[str, float]] = curve,
        ) -> None:
            curve[done] = dict(values)
            observers.notify(events.FitProgress(label, done, total, curve[done]))

        observers.notify(events.FitStart(fit.label, len(fit.instance_ids)))
        with blaming(fit.member.origin, "fit()"):
            artefact = run_fit(fit, inputs, store, progress)
        seconds = time.monotonic() - begin
        observers.notify(events.FitEnd(fit.label, artefact, seconds, curve, spec))


def _ask_judge(plan: Plan, store: Store, observers: Observers) -> tuple[Plan, str]:
    """Ask the judge what it was not asked yet.

    Nothing that was computed is lost where that fails: the plan then has a notice that says why,
    which is returned too.
    """
    judge = plan.judge
    if judge is None:
        return plan, ""
    from stabfw.judge import ask
    from stabfw.report.judged import cases_of
    from stabfw.report.measure import load_outcomes

    def progress(done: int, total: int) -> None:
        observers.notify(events.JudgeProgress(judge.name, done, total))

    cases = list(cases_of(plan, load_outcomes(plan, store, judged=False)))
    try:
        with blaming(judge.name, "generate()"):
            ask(judge, cases, store, progress)
    except StabfwError as error:
        reason = (
            f"the judge {judge.name} was not asked everything, so what it did not decide enters no "
            f"rate: {error}"
        )
        return replace(plan, notices=(*plan.notices, reason)), reason
    return plan, ""


def _done(store: Store, cell: Cell) -> bool:
    row = store.cell(cell.key)
    return row is not None and row.status == "done"


def _directory(spec: ExperimentSpec) -> Path:
    directory = spec.runs / spec.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"{directory}: cannot write results there: {why}; choose another place with `runs:` "
            "in the spec or --set runs=DIR"
        ) from error
    return directory


def _manifest(spec: ExperimentSpec, plan: Plan, registry: Registry) -> str:
    """What results were made from, as text: the same text means the same results."""
    content: Mapping[str, object] = {
        "stabfw": version("stabfw"),
        "spec": spec.hash(),
        "cells": [[asdict(condition), key] for condition, key in plan.named.items()],
        "scorers": sorted({cell.dataset.scorer for cell in plan.cells}),
        "metrics": [
            component_fields(c.type, components(registry, Kind.METRIC, c)) for c in spec.metrics
        ],
        "judge": _judge_fields(plan),
        "notices": plan.notices,
        "unsupported": [[item.condition.label, item.reason] for item in plan.unsupported],
    }
    return json.dumps({"digest": digest(content), **content}, indent=1)


def _judge_fields(plan: Plan) -> object:
    if plan.judge is None:
        return None
    from stabfw.judge import VERSION

    return [plan.judge.fields, VERSION]


def _unchanged(directory: Path, manifest: str) -> Results | None:
    from stabfw.report.serialise import load_results

    try:
        if (directory / MANIFEST).read_text() != manifest:
            return None
        results = load_results(directory / RESULTS)
    except (OSError, DataError):
        return None  # They are made anew from the store.
    pages = [cell_directory(directory, c.condition) / CHANGES for c in results.comparisons]
    pages += [directory / REPORT, *([directory / VERDICT] if results.gates else [])]
    return results if all(map(Path.exists, pages)) else None
