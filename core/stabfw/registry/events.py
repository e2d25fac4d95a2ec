"""What happens during an experiment, as one frozen event for each moment.

An event may gain fields; none is taken away while `API_VERSION` stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Event:
    """Base of all events.

    Attributes:
        hook: The hook that observers of this event implement.
    """

    hook: ClassVar[str]


@dataclass(frozen=True)
class FitStart(Event):
    """An accelerator is about to be fitted.

    Attributes:
        label: What is fitted, for people.
        instances: Number of instances that it is fitted to.
    """

    hook: ClassVar[str] = "stabfw_fit_start"
    label: str
    instances: int


@dataclass(frozen=True)
class PlanReady(Event):
    """It is known what has to be computed.

    Attributes:
        name: The experiment's name.
        cells: Number of cells in the plan.
        cached: How many of them are in the store already.
        instances: Number of instances to answer, over all cells that are not cached.
    """

    hook: ClassVar[str] = "stabfw_plan_ready"
    name: str
    cells: int
    cached: int
    instances: int


@dataclass(frozen=True)
class RunStart(Event):
    """An experiment begins.

    Attributes:
        name: The experiment's name.
        directory: Where its results are written.
    """

    hook: ClassVar[str] = "stabfw_run_start"
    name: str
    directory: Path


@dataclass(frozen=True)
class FitProgress(Event):
    """A calibration or training went on.

    Attributes:
        label: What is fitted to what, for people.
        done: Steps done.
        total: Steps in all.
        values: Numbers worth a curve, such as a loss, by name.
    """

    hook: ClassVar[str] = "stabfw_fit_progress"
    label: str
    done: int
    total: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class FitEnd(Event):
    """A calibration or training is complete and its artefact is in the store.

    Attributes:
        label: What was fitted to what, for people.
        digest: sha256 of the artefact.
        seconds: Time that it took now, without earlier runs.
        curve: The values of every `FitProgress` by step; only those of this time.
        spec: The `stabfw.spec.ExperimentSpec`.
    """

    hook: ClassVar[str] = "stabfw_fit_end"
    label: str
    digest: str
    seconds: float
    curve: Mapping[int, Mapping[str, float]]
    spec: object


@dataclass(frozen=True)
class SessionStart(Event):
    """A model is about to be loaded.

    Attributes:
        label: What is loaded, for people.
        cells: Number of cells that use it.
    """

    hook: ClassVar[str] = "stabfw_session_start"
    label: str
    cells: int


@dataclass(frozen=True)
class CellStart(Event):
    """A cell begins or goes on after an interruption.

    Attributes:
        key: The cell's key in the store.
        label: What it computes, for people.
        total: Number of its instances.
        done: How many of them were answered before.
    """

    hook: ClassVar[str] = "stabfw_cell_start"
    key: str
    label: str
    total: int
    done: int


@dataclass(frozen=True)
class Outcomes(Event):
    """A batch of answers has been committed to the store.

    Attributes:
        key: The cell's key in the store.
        label: What the cell computes, for people.
        count: Number of instances in the batch.
        seconds: Time that the batch took.
    """

    hook: ClassVar[str] = "stabfw_outcomes"
    key: str
    label: str
    count: int
    seconds: float


@dataclass(frozen=True)
class CellEnd(Event):
    """A cell is complete.

    Attributes:
        key: The cell's key in the store.
        label: What it computed, for people.
        seconds: Time spent on it now, without earlier runs.
    """

    hook: ClassVar[str] = "stabfw_cell_end"
    key: str
    label: str
    seconds: float


@dataclass(frozen=True)
class CellFailed(Event):
    """A cell could not be completed; the others go on.

    Attributes:
        key: The cell's key in the store.
        label: What it was to compute, for people.
        reason: Why it failed, for people.
    """

    hook: ClassVar[str] = "stabfw_cell_failed"
    key: str
    label: str
    reason: str


@dataclass(frozen=True)
class JudgeProgress(Event):
    """A judge is being asked about free answers.

    Attributes:
        label: Who is asked.
        done: Replies that there are, those of earlier runs included.
        total: Replies that there are to be.
    """

    hook: ClassVar[str] = "stabfw_judge_progress"
    label: str
    done: int
    total: int


@dataclass(frozen=True)
class MetricsReady(Event):
    """All numbers of an experiment have been computed.

    Attributes:
        results: A `stabfw.report.Results`.
    """

    hook: ClassVar[str] = "stabfw_metrics"
    results: object


@dataclass(frozen=True)
class RunEnd(Event):
    """An experiment is finished and its results are written.

    Attributes:
        results: A `stabfw.report.Results`.
        directory: Where they are.
        spec: The `stabfw.spec.ExperimentSpec`.
    """

    hook: ClassVar[str] = "stabfw_run_end"
    results: object
    directory: Path
    spec: object
