"""The names of a cell."""

from __future__ import annotations

import enum
from dataclasses import dataclass

BASELINE = "baseline"
CLEAN = "clean"


class Role(enum.StrEnum):
    """What a cell is there for."""

    BASELINE = "baseline"
    STACK = "stack"
    EQUAL_BUDGET = "equal-budget control"
    LOSSLESS = "lossless control"
    FLOOR = "noise floor"
    LIKELIHOOD = "baseline likelihood"


@dataclass(frozen=True)
class Condition:
    """The names of one cell: which model under which stack answered what.

    Attributes:
        model: Name of the model.
        stack: Name of the stack; `baseline` where nothing is accelerated.
        benchmark: Name of the benchmark.
        perturbation: Name of the perturbation; `clean` where nothing is perturbed.
        seed: Seed of the perturbation.
        role: What the cell is there for.
        repeat: 0, or the number of the batch composition in a noise floor.
        circumstance: How a matched baseline differs from the plain one, such as `bfloat16`.
    """

    model: str
    stack: str
    benchmark: str
    perturbation: str
    seed: int
    role: Role
    repeat: int = 0
    circumstance: str = ""

    @property
    def label(self) -> str:
        """A readable name, the distinguishing part first."""
        parts = [self.stack + (f" {self.circumstance}" if self.circumstance else "")]
        parts += [f"repeat {self.repeat}"] if self.repeat else []
        parts += ["baseline's answers"] if self.role is Role.LIKELIHOOD else []
        parts += [self.perturbation, self.benchmark, self.model]
        parts += [f"seed {self.seed}"] if self.seed else []
        return " · ".join(parts)
