"""What metrics have recorded of a model while it answers, checked before it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stabfw.components import LoadedModel, Recording
from stabfw.components.patch import Patch
from stabfw.errors import RunError, blaming
from stabfw.plan import Recorder

#: By instance id, then by key of the recorder.
Extras = Mapping[str, Mapping[str, Sequence[float]]]


class Recordings:
    """The recorders of a cell at work, until the patch ends.

    Args:
        model: The model, with the cell's stack attached.
        recorders: Who records.
        patch: Takes their hooks.
    """

    def __init__(self, model: LoadedModel, recorders: Sequence[Recorder], patch: Patch) -> None:
        self._running: list[tuple[Recorder, Recording]] = []
        for recorder in recorders:
            with blaming(recorder.origin, "record()"):
                self._running.append((recorder, recorder.metric.record(model, patch)))

    def take(self, instance_ids: Sequence[str]) -> Extras:
        """Return what was recorded of the batch that was just answered.

        Raises:
            RunError: If something is missing, or is not what the metric said.
        """
        found: dict[str, dict[str, Sequence[float]]] = {i: {} for i in instance_ids}
        for recorder, recording in self._running:
            with blaming(recorder.origin, "record()"):
                told = recording()
                for instance_id, extras in found.items():
                    extras[recorder.key] = _numbers(recorder, told.get(instance_id), instance_id)
        return found


def _numbers(
    recorder: Recorder, told: Mapping[str, object] | None, instance_id: str
) -> list[float]:
    numbers: list[float] = []
    for name, count in recorder.extras.items():
        if told is None or name not in told:
            raise RunError(
                f"{recorder.origin} recorded no '{name}' of instance {instance_id}; where there is "
                "none, it has to say NaN"
            )
        values = np.asarray(told[name], dtype=np.float64)
        if values.size != count or np.isinf(values).any():
            raise RunError(
                f"{recorder.origin} recorded {values.size} numbers for '{name}' of instance "
                f"{instance_id}, or infinite ones; it has to be {count}, finite or NaN"
            )
        numbers += values.reshape(-1).tolist()
    return numbers
