from __future__ import annotations

import dataclasses
import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site, importable, registry_of
from stabfw.errors import PluginLoadError, UnknownPluginError
from stabfw.registry import Observers, events, hookimpl, hooks

PLAN = events.PlanReady("demo", cells=3, cached=1, instances=20)
ALL = [
    PLAN,
    events.RunStart("demo", Path("runs/demo")),
    events.FitStart("toy", instances=4),
    events.FitProgress("toy", done=1, total=2, values={"loss": 0.5}),
    events.FitEnd("toy", "digest", 0.5, {}, object()),
    events.SessionStart("toy", cells=2),
    events.CellStart("k", "toy", total=10, done=4),
    events.Outcomes("k", "toy", count=6, seconds=0.5),
    events.CellEnd("k", "toy", seconds=0.5),
    events.CellFailed("k", "toy", reason="out of memory"),
    events.JudgeProgress("toy", done=1, total=2),
    events.MetricsReady(results=object()),
    events.RunEnd(results=object(), directory=Path("runs/demo"), spec=object()),
]


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def stabfw_plan_ready(self, event: Any) -> None:
        self.seen.append(event)

    @hookimpl
    def stabfw_cell_end(self) -> None:
        self.seen.append("cell end")


class Raiser:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def stabfw_plan_ready(self, event: Any) -> None:
        raise self.error


@pytest.fixture
def observers() -> Observers:
    return Observers(registry_of())


def test_every_event_has_a_hook_and_is_frozen() -> None:
    lifecycle = {
        name
        for name, function in vars(hooks).items()
        if name.startswith("stabfw_") and list(inspect.signature(function).parameters) == ["event"]
    }
    assert {event.hook for event in ALL} == lifecycle
    assert {type(event) for event in ALL} == set(events.Event.__subclasses__())
    for event in ALL:
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.anything = 1  # type: ignore[union-attr]


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_notify_calls_the_hook_of_the_event(observers: Observers, event: events.Event) -> None:
    seen: list[Any] = []
    observer = type("Observer", (), {event.hook: hookimpl(lambda self, event: seen.append(event))})
    observers.add(observer(), "observer")
    for each in ALL:
        observers.notify(each)
    assert seen == [event]


def test_an_observer_need_not_take_the_event(observers: Observers) -> None:
    recorder = Recorder()
    observers.add(recorder, "recorder")
    observers.notify(events.CellEnd("k", "toy", 1.0))
    assert recorder.seen == ["cell end"]


def test_a_failing_observer_becomes_one_warning(
    observers: Observers, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = Recorder(), Recorder()
    observers.add(first, "first")
    observers.add(Raiser(ValueError("boom")), "observer 'bad' (bad-dist 1.0, bad)")
    observers.add(last, "last")
    with caplog.at_level(logging.WARNING):
        observers.notify(PLAN)
    assert first.seen == last.seen == [PLAN]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "observer 'bad' (bad-dist 1.0, bad) failed in stabfw_plan_ready: ValueError: boom"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interruptions_pass_through(observers: Observers, error: BaseException) -> None:
    observers.add(Raiser(error), "raiser")
    with pytest.raises(type(error)):
        observers.notify(PLAN)


def test_observers_are_imported_only_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    site.module(
        "watch",
        """
        from stabfw.registry import hookimpl
        @hookimpl
        def stabfw_plan_ready(event): raise ValueError(event.name)
        """,
    )
    site.module("bomb", "raise RuntimeError('imported')")
    site.distribution("watcher", {"stabfw": {"watch": "watch", "bomb": "bomb"}}, "0.3")
    with importable(site):
        observers = Observers(registry_of(site))
        observers.load("watch")
        observers.notify(PLAN)
        assert "observer 'watch' (watcher 0.3, watch) failed in stabfw_plan_ready" in caplog.text
        with pytest.raises(UnknownPluginError, match="unknown observer 'watsh'; did you mean 'wat"):
            observers.load("watsh")
        with pytest.raises(PluginLoadError, match=r"observer 'bomb' .* cannot be imported"):
            observers.load("bomb")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, "x implements no hook: mark its functions with @stabfw.hookimpl"),
        (
            {"stabfw_cell_ended": hookimpl(lambda self, event: None)},
            "x defines 'stabfw_cell_ended', which is not a hook; did you mean 'stabfw_cell_end'?",
        ),
        (
            {"stabfw_cell_end": hookimpl(lambda self, cell: None)},
            "x has a hook that does not fit its specification: .*Declare it with one argument",
        ),
        (
            {"stabfw_cell_end": hookimpl(wrapper=True)(lambda self, event: (yield))},
            "x has a hook wrapper: observers cannot wrap each other",
        ),
    ],
)
def test_what_is_no_observer_is_refused_and_leaves_no_trace(
    observers: Observers, members: dict[str, Any], expected: str
) -> None:
    with pytest.raises(PluginLoadError, match=expected):
        observers.add(type("Observer", (), members)(), "x")
    observers.add(Recorder(), "x")
