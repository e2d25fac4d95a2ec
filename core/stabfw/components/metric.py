"""Contract of a metric plugin: numbers beyond the built-in ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from stabfw.components.base import Component, ComponentConfig

if TYPE_CHECKING:
    from typing import Any


class MetricConfig(ComponentConfig):
    """Base of metric configs."""


M = TypeVar("M", bound=MetricConfig)


class Metric(Component[M]):
    """Computes numbers from the paired outcomes of a baseline and a stack."""

    @abstractmethod
    def compute(self, pairs: Any) -> Mapping[str, float | None]:
        """Return named values; `None` where one is not defined.

        Args:
            pairs: `stabfw.metrics.Pairs`, the outcomes of both sides as aligned columns.
        """
