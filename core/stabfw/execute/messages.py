"""What the process that computes tells the one that writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stabfw.plan import Session
from stabfw.store import Outcome

#: How the names of worker processes begin.
WORKER = "stabfw worker"


@dataclass(frozen=True)
class Todo:
    """What is left of a cell.

    Attributes:
        batches: Numbers of the batches to compute.
        weights: Digest of the weights that earlier batches were computed with, or empty.
    """

    batches: tuple[int, ...]
    weights: str


@dataclass(frozen=True)
class Task:
    """What is left of a session, by key of the cell."""

    session: Session
    todo: Mapping[str, Todo]


@dataclass(frozen=True)
class Started:
    """A cell's model is loaded. If `restart`, earlier batches no longer hold."""

    key: str
    weights: str
    provenance: Mapping[str, Any]
    restart: bool


@dataclass(frozen=True)
class Batch:
    """A batch is computed."""

    key: str
    number: int
    outcomes: tuple[Outcome, ...]
    report: Mapping[str, Mapping[str, Any]]
    seconds: float


@dataclass(frozen=True)
class Ended:
    """All batches of a cell are computed."""

    key: str


@dataclass(frozen=True)
class Failed:
    """A cell cannot be computed; the batches sent so far hold, unless they are to be discarded."""

    key: str
    reason: str
    discard: bool = False


Message = Started | Batch | Ended | Failed
