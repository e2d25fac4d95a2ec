"""Instances, perturbed and rendered the same way for every stack."""

from __future__ import annotations

import hashlib
from itertools import chain, islice
from typing import TYPE_CHECKING

from stabfw.components import Instance
from stabfw.errors import RunError
from stabfw.plan import Cell, Dataset
from stabfw.plan.cells import component_fields
from stabfw.plan.datasets import Row
from stabfw.store.keys import canonical

if TYPE_CHECKING:
    import numpy as np


class Inputs:
    """Gives the inputs of cells; keeps the instances of the data set used last."""

    def __init__(self) -> None:
        self._of: Dataset | None = None
        self._instances: dict[str, Instance] = {}
        self._ordered: list[Row] = []

    def clean(self, dataset: Dataset, instance_id: str) -> Instance:
        """Return an instance as its benchmark holds it.

        Raises:
            RunError: The benchmark no longer holds it.
        """
        if self._of is not dataset:
            source = dataset.benchmark.instances(dataset.split)
            self._instances = {instance.id: instance for instance in source}
            self._ordered = sorted(dataset.rows, key=lambda row: row.id)
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
        instance = self.clean(cell.dataset, instance_id)
        # Each perturbation has random numbers of its own. They depend on seed, perturbation and
        # instance alone, never on order, batch or worker.
        for place, (kind, perturbation) in enumerate(cell.perturbations):
            rng = _generator(cell.seed, place, component_fields(kind, perturbation), instance.id)
            taking = perturbation.takes_from_another
            other = self._another(cell.dataset, instance_id, rng) if taking else None
            if other is None:
                instance = perturbation.perturb(instance, rng)
            else:
                instance = perturbation.perturb_with(instance, other, rng)
        return instance

    def _another(
        self, dataset: Dataset, instance_id: str, rng: np.random.Generator
    ) -> Instance | None:
        """Draw an instance with other pictures, wherever it stands; None if there is none.

        It follows from what is asked of all instances, which is part of the cell's key.
        """
        mine = {image.digest for image in self.clean(dataset, instance_id).images}
        start = int(rng.integers(len(self._ordered)))
        for row in chain(islice(self._ordered, start, None), islice(self._ordered, start)):
            if row.pixels and not mine & set(row.images):
                return self.clean(dataset, row.id)
        return None


def _generator(*content: object) -> np.random.Generator:
    import numpy as np

    entropy = hashlib.sha256(canonical(content).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(entropy, "big")))
