"""Instances, perturbed and rendered the same way for every stack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stabfw.components import Instance, Perturbation
from stabfw.errors import RunError
from stabfw.plan import Cell, Dataset
from stabfw.plan.cells import component_fields
from stabfw.store.keys import canonical

if TYPE_CHECKING:
    import numpy as np


class Inputs:
    """Gives the inputs of cells; keeps the instances of the data set used last."""

    def __init__(self) -> None:
        self._of: Dataset | None = None
        self._instances: dict[str, Instance] = {}

    def clean(self, dataset: Dataset, instance_id: str) -> Instance:
        """Return an instance as its benchmark holds it.

        Raises:
            RunError: The benchmark no longer holds it.
        """
        if self._of is not dataset:
            source = dataset.benchmark.instances(dataset.split)
            self._instances = {instance.id: instance for instance in source}
            self._of = dataset
        try:
            return self._instances[instance_id]
        except KeyError:
            raise RunError(
                f"benchmark '{dataset.name}' no longer has the instance {instance_id}: its data "
                "changed after the plan was made; run again"
            ) from None

    def perturbed(self, cell: Cell, instance_id: str) -> Instance:
        """Return an instance as a cell asks it."""
        return perturb(self.clean(cell.dataset, instance_id), cell.perturbations, cell.seed)


def perturb(
    instance: Instance, perturbations: Sequence[tuple[str, Perturbation[Any]]], seed: int
) -> Instance:
    """Apply perturbations in order, each with random numbers of its own.

    They depend on seed, perturbation and instance alone, never on order, batch or worker.
    """
    for place, (kind, perturbation) in enumerate(perturbations):
        rng = _generator(seed, place, component_fields(kind, perturbation), instance.id)
        instance = perturbation.perturb(instance, rng)
    return instance


def _generator(*content: object) -> np.random.Generator:
    import numpy as np

    entropy = hashlib.sha256(canonical(content).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(entropy, "big")))
