"""What is demanded of metrics that have something recorded, tried on a small model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from stabfw.components import LoadedModel, Metric, Prediction, Prompt
from stabfw.components.patch import Patch
from stabfw.testing.bench import answers, difference, state
from stabfw.testing.check import NotApplicableError, require
from stabfw.testing.samples import prompts
from stabfw.testing.subject import Subject

if TYPE_CHECKING:
    from stabfw.components.metric import Extra

    Told = dict[str, dict[str, Extra]]

_TOLERANCE = 1e-3


def check_recording_changes_nothing(subject: Subject) -> None:
    """Recording leaves every answer as it is to the last bit, and afterwards the model too."""
    with _tried(subject) as (metric, model):
        before, answered = state(model), answers(model)
        during, _ = _recorded(metric, model, prompts())
        words = ("without the recording", "with it")
        if told := difference(answered, during, words):
            require(False, f"{subject} changes what it looks at: {told}")
        after = state(model)
        left = sorted(k for k in {*before[0], *after[0]} if before[0].get(k) != after[0].get(k))
        require(
            before == after,
            f"{subject} leaves the model changed ({', '.join(left[:3]) or 'its weights'}): hook in "
            "through `patch`",
        )


def check_records_what_it_says(subject: Subject) -> None:
    """Of every prompt it records the numbers that `extras` names, in a padded batch as alone."""
    with _tried(subject) as (metric, model):
        asked = prompts()
        _, together = _recorded(metric, model, asked)
        for prompt in asked:
            _, alone = _recorded(metric, model, [prompt])
            for name, count in metric.extras().items():
                one, other = (
                    _numbers(subject, told, prompt, name, count) for told in (together, alone)
                )
                require(
                    bool(np.allclose(one, other, _TOLERANCE, _TOLERANCE, equal_nan=True)),
                    f"{subject}: '{name}' of prompt {prompt.instance_id} is {one[:3].tolist()} in "
                    f"a batch of {len(asked)}, but {other[:3].tolist()} alone, in float32. Padding "
                    "may be seen: use the attention mask",
                )


@contextmanager
def _tried(subject: Subject) -> Iterator[tuple[Metric[Any], LoadedModel]]:
    metric: Metric[Any] = subject.make()
    if not metric.extras():
        raise NotApplicableError("it has nothing recorded")
    if reason := metric.cannot_record(subject.bench.info()):
        raise NotApplicableError(f"it cannot record the model that it is tried on: {reason}")
    with subject.bench.opened(subject.bench.request()) as model:
        yield metric, model


def _recorded(
    metric: Metric[Any], model: LoadedModel, asked: Sequence[Prompt]
) -> tuple[list[Prediction], Told]:
    with Patch() as patch:
        take = metric.record(model, patch)
        answered = answers(model, asked)
        return answered, {instance_id: dict(extras) for instance_id, extras in take().items()}


def _numbers(subject: Subject, told: Told, prompt: Prompt, name: str, count: int) -> Extra:
    found = told.get(prompt.instance_id, {}).get(name)
    numbers = np.zeros(0) if found is None else np.asarray(found, dtype=np.float64).reshape(-1)
    require(
        len(numbers) == count and not bool(np.isinf(numbers).any()),
        f"{subject} must record {count} numbers as '{name}' of prompt {prompt.instance_id}, finite "
        f"or NaN, but records {numbers[:3].tolist()} ({len(numbers)})",
    )
    return numbers


CHECKS = (check_recording_changes_nothing, check_records_what_it_says)
