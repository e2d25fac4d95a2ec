"""Contract of a metric plugin: numbers beyond the built-in ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from stabfw.components.base import Component, ComponentConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stabfw.components.model import LoadedModel, ModelInfo
    from stabfw.components.patch import Patch

    Extra = NDArray[np.float64]

#: Gives what was recorded since it was called last: by instance id, then by name, an array of as
#: many numbers as `Metric.extras` says, NaN where one is not defined.
Recording = Callable[[], "Mapping[str, Mapping[str, Extra]]"]


@dataclass(frozen=True)
class MetricValue:
    """One number and how well it is known.

    Attributes:
        name: What it measures.
        value: The estimate, None where it is undefined; never NaN.
        low: Lower end of the interval, None where there is none.
        high: Upper end of the interval, None where there is none.
        n: Rows the estimate rests on (its denominator).
        method: How the interval was obtained; for ``mcnemar_p`` the test.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str


class MetricConfig(ComponentConfig):
    """Base of metric configs."""


M = TypeVar("M", bound=MetricConfig)


class Metric(Component[M]):
    """Computes numbers from the paired outcomes of a baseline and a stack.

    What stored answers do not tell, a metric has recorded while the model answers: `extras` names
    it, `record` does it.
    """

    @abstractmethod
    def compute(self, pairs: Any) -> Sequence[MetricValue]:
        """Return named values with their intervals; `None` where one is not defined.

        Args:
            pairs: `stabfw.metrics.Pairs`, the outcomes of both sides as aligned columns. Where
                the metric records, `pairs.base.extras` and `pairs.variant.extras` hold each of
                its extras, of shape (n,) for one number and (n, count) for several; NaN where
                nothing was recorded.
        """

    def extras(self) -> Mapping[str, int]:
        """What is recorded of each instance: names, and how many numbers each one is.

        The default is nothing. What is named here enters the keys of all cells, so answers
        without it are not reused.
        """
        return {}

    def recorded_by(self) -> Mapping[str, Any]:
        """The part of the config on which `record` depends; the default is all of it.

        It enters the keys of all cells. Metrics that differ only elsewhere share what is recorded.
        """
        return self.config.model_dump(mode="json", exclude={"type"})

    def cannot_record(self, info: ModelInfo) -> str | None:
        """Say why the extras of a model cannot be recorded, or None if they can.

        Must not import torch. Where they cannot, the model answers as ever and the extras are NaN.
        """
        return None

    def record(self, model: LoadedModel, patch: Patch) -> Recording:
        """Begin to record, until the patch ends.

        It may look at the model but must not change what it answers. The stack is attached
        already, so hooks see what it left. Costly work belongs into the function that is
        returned: it is called when a batch is answered, outside the times that are told of answers.

        Args:
            model: The model. `model.batch` tells the rows that are being answered.
            patch: Takes hooks (`patch.hook`, `patch.pre_hook`) and removes them at the end.

        Returns:
            A function that tells of every instance answered since it was called last.
        """
        raise NotImplementedError(f"{type(self).__name__} names extras but has no record()")
