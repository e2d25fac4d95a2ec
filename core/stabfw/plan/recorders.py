"""What the metrics of a spec have recorded while models answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabfw.components import Metric
from stabfw.errors import PluginError
from stabfw.spec import label
from stabfw.store import digest


@dataclass(frozen=True)
class Recorder:
    """A metric that wants something recorded of every instance.

    Attributes:
        type: Name of its plugin.
        metric: The metric.
        origin: Name, distribution and version, for messages.
    """

    type: str
    metric: Metric[Any]
    origin: str

    @cached_property
    def extras(self) -> dict[str, int]:
        """Names of what is recorded, and how many numbers each one is.

        Raises:
            PluginError: If the metric says something else.
        """
        found = dict(self.metric.extras())
        wrong = [name for name, count in found.items() if not isinstance(count, int) or count < 1]
        if wrong:
            raise PluginError(
                f"{self.origin}: extras() must tell how many numbers '{wrong[0]}' is, not "
                f"{found[wrong[0]]!r}"
            )
        return found

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What enters the key of a cell, since another recorder would record something else."""
        return {
            "type": self.type,
            "by": dict(self.metric.recorded_by()),
            "behaviour": self.metric.behaviour_version,
            "content": dict(self.metric.fingerprint()),
            "extras": list(map(list, self.extras.items())),
        }

    @cached_property
    def key(self) -> str:
        """Under which the store keeps what is recorded."""
        return digest(self.fields)

    def columns(self, rows: Sequence[Sequence[float] | None]) -> dict[str, NDArray[np.float64]]:
        """Tell apart what was recorded of instances, by name.

        Args:
            rows: The numbers of each instance, None where nothing was recorded.

        Returns:
            Columns of shape (n,) for one number, and (n, count) for several.
        """
        numbers = np.full((len(rows), sum(self.extras.values())), np.nan)
        for place, row in enumerate(rows):
            if row is not None:
                numbers[place] = row
        parts = {name: numbers[:, part] for name, part in self._places.items()}
        return {n: p[:, 0] if self.extras[n] == 1 else p for n, p in parts.items()}

    def named(self, numbers: Sequence[float]) -> dict[str, tuple[float, ...]]:
        """Tell apart what was recorded of one instance; names begin like those of the metric."""
        own = label(self.metric.config)
        return {f"{own}.{name}": tuple(numbers[part]) for name, part in self._places.items()}

    @cached_property
    def _places(self) -> dict[str, slice]:
        ends = accumulate(self.extras.values())
        return {
            name: slice(end - count, end)
            for (name, count), end in zip(self.extras.items(), ends, strict=True)
        }
