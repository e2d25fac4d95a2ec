"""Where sessions run. The caller is the only one who writes to the store."""

from __future__ import annotations

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stabfw.execute.inputs import Inputs
from stabfw.execute.messages import (
    WORKER,
    Batch,
    Ended,
    Failed,
    Message,
    Started,
    Task,
    Todo,
)
from stabfw.execute.session import run_session
from stabfw.plan import make_plan
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw.store import Store

_TRIES = 2


class Executor(ABC):
    """Computes tasks. Messages of one cell come in order; cells may be interleaved."""

    @abstractmethod
    def execute(self, tasks: Sequence[Task]) -> Iterator[Message]:
        """Compute tasks and tell what happens, as it happens."""


class InlineExecutor(Executor):
    """Runs one session after the other in this process: debuggers work, nothing starts up."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def execute(self, tasks: Sequence[Task]) -> Iterator[Message]:
        """Compute tasks one after the other."""
        inputs = Inputs()
        for task in tasks:
            yield from run_session(task, inputs, self._store)


@dataclass
class _Worker:
    task: Task
    process: BaseProcess
    pipe: Connection
    tries: int
    left: dict[str, list[int]]
    weights: dict[str, str] = field(default_factory=dict)

    def note(self, message: Message) -> None:
        """Keep track of what is left, in case the process dies."""
        if isinstance(message, Started):
            self.weights[message.key] = message.weights
            if message.restart:
                cell = next(c for c in self.task.session.cells if c.key == message.key)
                self.left[message.key] = list(range(len(cell.batches)))
        elif isinstance(message, Batch):
            self.left[message.key].remove(message.number)
        elif isinstance(message, (Ended, Failed)):
            self.left.pop(message.key, None)


class ProcessExecutor(Executor):
    """Runs each session in a process of its own, several at a time.

    What a session leaves behind (memory, patched classes) ends with its process. A process that
    dies is started once more with what was left.

    Args:
        spec: The experiment spec as `ExperimentSpec.dump` gives it; workers make their own plan
            from it, since loaded components cannot be sent.
        store: Directory of the store, which workers only read.
        workers: How many sessions run at a time.
    """

    def __init__(self, spec: Any, store: Path, workers: int) -> None:
        self._spec = spec
        self._directory = store
        self._workers = workers

    def execute(self, tasks: Sequence[Task]) -> Iterator[Message]:
        """Compute tasks side by side."""
        waiting, running = list(tasks), list[_Worker]()
        try:
            while waiting or running:
                while waiting and len(running) < self._workers:
                    running.append(self._start(waiting.pop(0), tries=1))
                for pipe in wait([worker.pipe for worker in running]):
                    worker = next(w for w in running if w.pipe is pipe)
                    try:
                        message = worker.pipe.recv()
                    except EOFError:
                        running.remove(worker)
                        yield from self._ended(worker, running)
                        continue
                    worker.note(message)
                    yield message
        finally:
            for worker in running:
                worker.process.kill()
                worker.process.join()

    def _start(self, task: Task, tries: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        todo = {key: (item.batches, item.weights) for key, item in task.todo.items()}
        process = context.Process(
            target=_work,
            args=(theirs, self._spec, self._directory, task.session.key, todo),
            name=f"{WORKER}: {task.session.label}",
            daemon=True,
        )
        process.start()
        theirs.close()
        left = {key: list(item.batches) for key, item in task.todo.items()}
        return _Worker(task, process, ours, tries, left)

    def _ended(self, worker: _Worker, running: list[_Worker]) -> Iterator[Message]:
        worker.process.join()
        if not worker.left:
            return
        if worker.tries < _TRIES:
            todo = {
                key: Todo(tuple(numbers), worker.weights.get(key, worker.task.todo[key].weights))
                for key, numbers in worker.left.items()
            }
            running.append(self._start(Task(worker.task.session, todo), worker.tries + 1))
            return
        code = worker.process.exitcode
        why = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        for key in worker.left:
            yield Failed(key, f"the worker process ended with {why}, twice; is memory short?")


def _work(
    pipe: Connection,
    spec: Any,
    directory: Path,
    session_key: str,
    todo: dict[str, tuple[tuple[int, ...], str]],
) -> None:
    """Entry point of a worker process."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    registry = Registry()
    with Store(directory) as store:
        plan = make_plan(parse_spec(spec, registry), registry, store)
        session = next((s for s in plan.sessions if s.key == session_key), None)
        if session is None:
            reason = "its key came out differently in the worker: files changed after the plan"
            for key in todo:
                pipe.send(Failed(key, reason))
            return
        task = Task(session, {key: Todo(*item) for key, item in todo.items()})
        for message in run_session(task, Inputs(), store):
            pipe.send(message)
