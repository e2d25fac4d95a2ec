"""One loaded model working through the cells that it serves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Artefact,
    Benchmark,
    Example,
    FinishReason,
    FitData,
    Instance,
    LoadedModel,
    Prediction,
    Prompt,
    Score,
)
from stabfw.components.patch import Patch, fingerprint, weights_digest
from stabfw.errors import DataError, RunError, StabfwError
from stabfw.execute.answering import Given, answer, require_answer
from stabfw.execute.inputs import Inputs
from stabfw.execute.messages import Batch, Ended, Failed, Message, Started, Task, Todo
from stabfw.execute.prefill import counted_prefill
from stabfw.execute.recording import Recordings
from stabfw.execute.strength import strength
from stabfw.plan import Cell, Fit, Member, Role, Session
from stabfw.store import Outcome, Store, Strength


def run_session(task: Task, inputs: Inputs, store: Store) -> Iterator[Message]:
    """Load a session's model and compute what is left of its cells.

    A stack that fails, or that leaves the model other than it found it, costs its own cells
    only: the model is loaded anew for the next stack.

    Args:
        task: The session and what is left of it.
        inputs: Where instances come from.
        store: Holds artefacts, and the answers that some cells score. It is only read.

    Yields:
        What happened, as it happens.
    """
    cells = [cell for cell in task.session.cells if cell.key in task.todo]
    loaded: _Loaded | None = None
    try:
        for _, group in groupby(cells, key=lambda cell: [m.fields for m in cell.members]):
            stack = list(group)
            if loaded is None:
                try:
                    loaded = _Loaded(task.session, stack[0].members, store)
                except Exception as error:
                    yield from (Failed(cell.key, _reason(error)) for cell in stack)
                    continue
            healthy = yield from _run_stack(loaded, stack, task.todo, inputs, store)
            if not healthy:
                loaded.close()
                loaded = None
    finally:
        if loaded is not None:
            loaded.close()


def read_answer(
    benchmark: Benchmark[Any], instance: Instance, prediction: Prediction
) -> tuple[Answer, Score]:
    """Read the answer out of a prediction and score it.

    Args:
        benchmark: Says how.
        instance: The instance as it was asked, perturbed.
        prediction: What was generated.
    """
    if prediction.finish is FinishReason.ERROR:
        return Answer(None, instance.kind, AnswerStatus.ERROR), Score(0.0, False)
    answer = benchmark.extract(prediction.text, instance)
    nothing = answer.status in (AnswerStatus.INVALID, AnswerStatus.EMPTY)
    if prediction.finish is FinishReason.LENGTH and nothing:
        answer = Answer(None, answer.kind, AnswerStatus.TRUNCATED)
    return answer, benchmark.score(answer, instance)


def run_fit(
    fit: Fit,
    inputs: Inputs,
    store: Store,
    progress: Callable[[int, int, Mapping[str, float]], None],
) -> str:
    """Calibrate, search or train on a throw-away load, or go on with it.

    Args:
        fit: What is fitted, and to what.
        inputs: Gives the data.
        store: Keeps the artefact, and what an interrupted fit left.
        progress: Told as `FitData.progress`.

    Returns:
        The artefact's digest.
    """
    instances = [inputs.clean(fit.dataset, instance_id) for instance_id in fit.instance_ids]
    data = FitData(
        tuple(Example.of(fit.dataset.benchmark.prompt(i), i.references) for i in instances),
        kept=store.unfinished(fit.recipe),
        keep=partial(store.put_unfinished, fit.recipe),
        progress=progress,
    )
    with fit.model.open(fit.request) as model:
        artefact = fit.member.component.fit(model, data)
    return store.put_artefact(fit.recipe, artefact.data)


class _Loaded:
    """A model in memory, transformed, with what is needed to notice a change to it."""

    def __init__(self, session: Session, members: Sequence[Member], store: Store) -> None:
        self._exit = ExitStack()
        try:
            self.model = self._exit.enter_context(session.model.open(session.request))
            _check_observed(session, self.model)
            transforming = [member for member in members if member.transforms]
            for member in transforming:
                member.component.transform(self.model, _artefact(member, store))
            module = self.model.module
            self.weights = weights_digest(module) if module is not None and transforming else ""
        except BaseException:
            self._exit.close()
            raise

    def close(self) -> None:
        self._exit.close()


def _run_stack(
    loaded: _Loaded,
    cells: Sequence[Cell],
    todo: Mapping[str, Todo],
    inputs: Inputs,
    store: Store,
) -> Generator[Message, None, bool]:
    """Attach a stack and compute its cells; return whether the model can serve another stack."""
    model, members = loaded.model, cells[0].members
    recording = any(cell.recorders for cell in cells)
    attaching = (bool(members) or recording) and model.module is not None
    complete: list[str] = []
    reason = change = ""
    try:
        before = _state(loaded, cells[0], inputs) if attaching else None
        for cell in cells:
            # Attached anew for each cell, so that what a member counts is of this cell only.
            with Patch() as patch:
                for member in members:
                    member.component.attach(model, _artefact(member, store), patch)
                # Last, so that what is recorded is what the stack leaves.
                recordings = Recordings(model, cell.recorders, patch)
                yield from _run_cell(loaded, cell, todo[cell.key], inputs, store, recordings)
            complete.append(cell.key)
        if before is not None:
            change = _change(before, loaded, cells[0], inputs)
    except Exception as error:
        reason = _reason(error)
    if change:
        origins = [member.origin for member in members]
        origins += [recorder.origin for cell in cells for recorder in cell.recorders]
        names = " + ".join(dict.fromkeys(origins))
        reason = (
            f"{names} did not restore the model: afterwards it {change}. Make every edit "
            "through `patch`"
        )
    for cell in cells:
        # What a cell sent stands even if the next one fails, unless the stack left traces.
        if cell.key in complete and not change:
            yield Ended(cell.key)
        else:
            yield Failed(cell.key, reason, discard=bool(change))
    return not reason


def _run_cell(
    loaded: _Loaded,
    cell: Cell,
    todo: Todo,
    inputs: Inputs,
    store: Store,
    recordings: Recordings,
) -> Iterator[Message]:
    model = loaded.model
    given = store.predictions(cell.parent) if cell.parent else {}
    restart = bool(todo.weights) and todo.weights != loaded.weights
    provenance = {
        "dtype": model.request.dtype,
        "device": model.request.device,
        "members": {member.type: member.origin for member in cell.members},
    }
    yield Started(cell.key, loaded.weights, provenance, restart)
    numbers = range(len(cell.batches)) if restart else todo.batches
    for number in numbers:
        begin = time.perf_counter()
        # The batches are the same for every stack, so their first ones can be compared.
        with counted_prefill(model) if number == 0 else nullcontext() as prefill:
            outcomes = _run_batch(model, cell, cell.batches[number], inputs, given, recordings)
        report = {member.type: _reported(member, model) for member in cell.members}
        _check_report(cell, report)
        if prefill:
            report["prefill"] = prefill
        yield Batch(cell.key, number, tuple(outcomes), report, time.perf_counter() - begin)


def _run_batch(
    model: LoadedModel,
    cell: Cell,
    ids: Sequence[str],
    inputs: Inputs,
    given: Given,
    recordings: Recordings,
) -> list[Outcome]:
    benchmark = cell.dataset.benchmark
    asked: list[tuple[Instance, Prompt]] = []
    strengths: dict[str, Strength] = {}
    # Every stack is asked the same, so it is measured once.
    measured = bool(cell.perturbations) and cell.condition.role is Role.BASELINE
    outcomes: dict[str, Outcome] = {}
    for instance_id in ids:
        try:
            instance = inputs.perturbed(cell, instance_id)
            question = benchmark.prompt(instance)
            if cell.parent:
                require_answer(question, given)
            for image in question.images:
                image.load()
            if measured:
                clean = benchmark.prompt(inputs.clean(cell.dataset, instance_id))
                strengths[instance_id] = strength(clean, question)
            asked.append((instance, question))
        except DataError as error:
            outcomes[instance_id] = _unreadable(instance_id, str(error))
    if asked:
        predictions = answer(model, cell, [question for _, question in asked], given)
        extras = recordings.take([instance.id for instance, _ in asked])
        for (instance, question), prediction in zip(asked, predictions, strict=True):
            read, score = read_answer(benchmark, instance, prediction)
            outcomes[instance.id] = Outcome(
                instance_id=instance.id,
                input_hash=question.digest,
                prediction=prediction,
                answer=read,
                score=score,
                strength=strengths.get(instance.id),
                extras=extras[instance.id],
            )
    return [outcomes[instance_id] for instance_id in ids]


def _unreadable(instance_id: str, reason: str) -> Outcome:
    return Outcome(
        instance_id=instance_id,
        input_hash="",
        prediction=Prediction(text="", finish=FinishReason.ERROR, error=reason),
        answer=Answer(None, AnswerKind.SHORT, AnswerStatus.ERROR),
        score=Score(0.0, False),
    )


def _check_observed(session: Session, model: LoadedModel) -> None:
    """The key was computed from a description; what was loaded must be what was described."""
    for name, expected, observed in (
        ("family", session.info.family, model.info.family),
        ("processor", session.info.processor, model.info.processor),
        ("dtype", session.request.dtype, model.request.dtype),
        ("attention", session.request.attention, model.request.attention),
    ):
        if expected != observed:
            raise RunError(
                f"{session.label}: planned with {name} {expected}, but loaded with {observed}; "
                "outcomes would be kept under a wrong key"
            )


def _reported(member: Member, model: LoadedModel) -> dict[str, Any]:
    """What a member tells of itself, and the artefact that it worked with."""
    artefact = {"artefact": member.artefact} if member.artefact else {}
    return {**member.component.report(model), **artefact}


def _check_report(cell: Cell, report: Mapping[str, Mapping[str, Any]]) -> None:
    for member in cell.members:
        try:
            json.dumps(report[member.type], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(f"{member.origin} reports what is not JSON: {error}") from error
        if report[member.type].get("engaged") is False:
            raise RunError(
                f"{member.origin} did nothing in stack '{cell.condition.stack}': "
                f"{dict(report[member.type])}; its answers would be the baseline's"
            )


def _state(loaded: _Loaded, cell: Cell, inputs: Inputs) -> tuple[dict[str, str], object]:
    """What an accelerator has to restore: the model's structure, and its answer to a probe."""
    assert loaded.model.module is not None
    # The probe comes first: transformers adds hooks of its own when a model is first used.
    answer = _probe(loaded, cell, inputs)
    return fingerprint(loaded.model.module), answer


def _change(
    before: tuple[dict[str, str], object], loaded: _Loaded, cell: Cell, inputs: Inputs
) -> str:
    """Say in which way the model is no longer as it was, or nothing."""
    try:
        after = _state(loaded, cell, inputs)
    except Exception as error:
        return f"cannot answer any more ({type(error).__name__}: {error})"
    old, new = before[0], after[0]
    left = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if left:
        return f"changed {', '.join(left[:3])}"
    return "answers a probe differently" if before[1] != after[1] else ""


def _probe(loaded: _Loaded, cell: Cell, inputs: Inputs) -> object:
    """Answer one fixed prompt; two probes of the same model are equal to the last bit."""
    ids = [row.id for row in cell.dataset.rows if row.pixels or not row.images][:1]
    asked = [cell.dataset.benchmark.prompt(inputs.clean(cell.dataset, i)) for i in ids]
    if not asked:
        return None
    model = loaded.model
    # Without what accelerators ask of `generate`: none is attached.
    predictions = model.generate(model.encode(asked), replace(cell.options, extra={}))
    return [(p.token_ids, p.logprobs, p.top) for p in predictions]


def _artefact(member: Member, store: Store) -> Artefact | None:
    if not member.recipe:
        return None
    data = store.artefact(member.recipe)
    if data is None or Artefact(data).digest != member.artefact:
        raise RunError(
            f"the artefact of {member.type} changed after the plan was made; delete "
            f"{store.artefact_path(member.artefact)} and run again"
        )
    return Artefact(data)


def _reason(error: Exception) -> str:
    if isinstance(error, StabfwError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of memory; choose a smaller `batch_size` (for all stacks alike): {error}"
    return f"{type(error).__name__}: {error}"
