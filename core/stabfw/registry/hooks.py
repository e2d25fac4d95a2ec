"""Every hook that a plugin can implement.

Example:
    A module that an entry point of the group `stabfw.accelerators` names::

        from stabfw import hookimpl

        @hookimpl
        def stabfw_register_accelerators(register):
            register("my-method", MyMethod)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

from stabfw.components import Accelerator, Benchmark, Metric, Model, Perturbation
from stabfw.registry import events

PROJECT = "stabfw"

hookspec = pluggy.HookspecMarker(PROJECT)

#: Marks a function as the implementation of the hook of its name.
hookimpl = pluggy.HookimplMarker(PROJECT)


# Registration: called once, when a component is first asked for by its name.


@hookspec
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Register model classes.

    Args:
        register: Takes the name, as in the entry point, and the class.
    """


@hookspec
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Register accelerator classes.

    Args:
        register: Takes the name, as in the entry point, and the class.
    """


@hookspec
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Register benchmark classes.

    Args:
        register: Takes the name, as in the entry point, and the class.
    """


@hookspec
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Register perturbation classes.

    Args:
        register: Takes the name, as in the entry point, and the class.
    """


@hookspec
def stabfw_register_metrics(register: Callable[[str, type[Metric[Any]]], None]) -> None:
    """Register metric classes.

    Args:
        register: Takes the name, as in the entry point, and the class.
    """


# Life of an experiment: called in the main process, in the order below. Return values are ignored.
# An exception becomes a warning; the experiment and the other observers go on.


@hookspec
def stabfw_fit_start(event: events.FitStart) -> None:
    """Called before each fit of an accelerator whose artefact is not in the store.

    Args:
        event: What is fitted, and to how much.
    """


@hookspec
def stabfw_plan_ready(event: events.PlanReady) -> None:
    """Called once, when the spec is expanded into cells and the store has been looked up.

    Args:
        event: How many cells there are and how many are left to compute.
    """


@hookspec
def stabfw_run_start(event: events.RunStart) -> None:
    """Called once, before the first model is loaded; also when everything is cached.

    Args:
        event: The experiment's name and directory.
    """


@hookspec
def stabfw_fit_progress(event: events.FitProgress) -> None:
    """Called during a calibration or training, before anything is planned with its artefact.

    Args:
        event: How far it is.
    """


@hookspec
def stabfw_fit_end(event: events.FitEnd) -> None:
    """Called after each calibration or training.

    Args:
        event: The artefact that it made, and the curve of its values.
    """


@hookspec
def stabfw_session_start(event: events.SessionStart) -> None:
    """Called before each loading of a model.

    Args:
        event: What is loaded and how many cells share it.
    """


@hookspec
def stabfw_cell_start(event: events.CellStart) -> None:
    """Called before the first batch of each cell that is not complete.

    Args:
        event: The cell and how much of it was done before.
    """


@hookspec
def stabfw_outcomes(event: events.Outcomes) -> None:
    """Called after each batch, when its answers are safe in the store.

    Args:
        event: The cell and how many answers the batch gave.
    """


@hookspec
def stabfw_cell_end(event: events.CellEnd) -> None:
    """Called after the last batch of each cell.

    Args:
        event: The cell and the time it took.
    """


@hookspec
def stabfw_cell_failed(event: events.CellFailed) -> None:
    """Called instead of `stabfw_cell_end` where a cell could not be completed.

    Args:
        event: The cell and the reason.
    """


@hookspec
def stabfw_judge_progress(event: events.JudgeProgress) -> None:
    """Called while a judge is asked about free answers, after the last cell; not if all is known.

    Args:
        event: How far it is.
    """


@hookspec
def stabfw_metrics(event: events.MetricsReady) -> None:
    """Called once, when all numbers have been computed and before they are written.

    Args:
        event: The results.
    """


@hookspec
def stabfw_run_end(event: events.RunEnd) -> None:
    """Called once at the very end, also when some cells failed.

    Args:
        event: The results, where they are, and the spec.
    """
