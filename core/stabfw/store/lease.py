"""Who works on a cell: leases that die with their owner."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds without a sign of life after which an owner that cannot be looked up counts as dead.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same number.

    Attributes:
        boot: Id of the machine's boot, and the namespace that `pid` is a number in.
        pid: The process.
        started: When it started, in clock ticks since boot.
    """

    boot: str
    pid: int
    started: int

    @classmethod
    def me(cls) -> Owner:
        """The calling process."""
        return cls(_boot(), os.getpid(), _started(os.getpid()) or 0)

    def alive(self, heartbeat: float) -> bool:
        """Whether the owner still works, `heartbeat` being its last sign of life (epoch s)."""
        here = _boot()
        if self.boot == here:
            return _started(self.pid) == self.started
        if self.boot.split("/")[0] != here.split("/")[0]:
            return False  # The machine has been started anew since.
        return time.time() - heartbeat < PATIENCE_S


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown/unknown"


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _started_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended; it only waits for its parent to notice.
    return None if fields[0] == "Z" else int(fields[19])


def _started_without_proc(pid: int) -> int | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0
