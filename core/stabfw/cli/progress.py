"""Progress of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stabfw.registry import hookimpl

_LINE_EVERY_S = 10.0


class ProgressObserver:
    """Shows cells, instances per second and time left on stderr."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._cells = self._cells_done = 0
        self._total = self._done = 0
        self._begin = self._last = time.monotonic()
        self._label = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._judged: TaskID | None = None

    @hookimpl
    def stabfw_fit_start(self, event: Any) -> None:
        """Name what is fitted, and let the time run."""
        what = f"fitting {event.label} to {event.instances} instances"
        if not self._live:
            self._console.print(escape(what), highlight=False)
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task(what, total=None)
        self._bar.start()

    @hookimpl
    def stabfw_fit_end(self, event: Any) -> None:
        """Say how long it took."""
        self.close()
        self._console.print(
            escape(f"fitted {event.label} in {event.seconds:.0f} s"), highlight=False
        )

    @hookimpl
    def stabfw_plan_ready(self, event: Any) -> None:
        """Say how much there is to do."""
        self._cells, self._total = event.cells - event.cached, event.instances
        self._begin = time.monotonic()
        what = f"{event.name}: {event.cells} cells, {event.cached} in the store"
        todo = f", {event.instances} instances to answer" if self._total else ""
        self._console.print(escape(what + todo), highlight=False)
        if self._live and self._total:
            self._bar = Progress(
                TextColumn("[bold]{task.fields[cells]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[label]}", style="dim", markup=False),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=self._total, cells=f"cells 0/{self._cells}", rate="", label="loading"
            )
            self._bar.start()

    @hookimpl
    def stabfw_fit_progress(self, event: Any) -> None:
        """Say how far a calibration or training is."""
        if event.done < event.total and time.monotonic() - self._last < _LINE_EVERY_S:
            return
        self._last = time.monotonic()
        values = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        self._console.print(
            f"fit {event.done}/{event.total}  {values}  {escape(event.label)}",
            highlight=False,
            soft_wrap=True,
        )

    @hookimpl
    def stabfw_cell_start(self, event: Any) -> None:
        """Name the cell at work."""
        self._label = event.label
        self._done += event.done
        if self._live:
            self._show()

    @hookimpl
    def stabfw_outcomes(self, event: Any) -> None:
        """Count a batch."""
        self._label = event.label
        self._done += event.count
        if self._live or time.monotonic() - self._last > _LINE_EVERY_S:
            self._show()

    @hookimpl
    def stabfw_cell_end(self, event: Any) -> None:
        """Count a cell."""
        self._cells_done += 1
        self._label = event.label
        self._show()

    @hookimpl
    def stabfw_cell_failed(self, event: Any) -> None:
        """Say what failed at once; the rest goes on."""
        why = escape(f"{event.label}: {event.reason}")
        self._console.print(f"[red]failed[/] {why}", highlight=False)

    @hookimpl
    def stabfw_judge_progress(self, event: Any) -> None:
        """Say how far the judge is."""
        if self._live:
            if self._judged is None:
                self.close()
                self._bar = Progress(
                    TextColumn("[bold]judging"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.description}", style="dim", markup=False),
                    console=self._console,
                    transient=True,
                )
                self._judged = self._bar.add_task(event.label, total=event.total)
                self._bar.start()
            if self._bar is not None:
                self._bar.update(self._judged, completed=event.done, total=event.total)
        elif self._judged is None or time.monotonic() - self._last > _LINE_EVERY_S:
            self._judged = TaskID(0)
            self._last = time.monotonic()
            self._console.print(
                f"judging  replies {event.done}/{event.total}  {escape(event.label)}",
                highlight=False,
                soft_wrap=True,
            )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        self._last = time.monotonic()
        elapsed = max(self._last - self._begin, 1e-3)
        rate = f"{self._done / elapsed:.0f}/s"
        cells = f"cells {self._cells_done}/{self._cells}"
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=self._done, cells=cells, rate=rate, label=self._label
            )
        elif not self._live:
            left = (self._total - self._done) * elapsed / max(self._done, 1)
            self._console.print(
                f"{cells}  instances {self._done}/{self._total}  {rate}  "
                f"{left:.0f} s left  {escape(self._label)}",
                highlight=False,
                soft_wrap=True,
            )
