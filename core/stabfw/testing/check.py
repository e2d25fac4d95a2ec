"""A check, and what came of it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stabfw.testing.subject import Subject


class Status(enum.StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "failed"
    EXPECTED = "expected"
    UNEXPECTED_PASS = "unexpected_pass"
    NOT_APPLICABLE = "not_applicable"

    @property
    def good(self) -> bool:
        """Whether nothing has to be done about it."""
        return self not in (Status.FAILED, Status.UNEXPECTED_PASS)


class CheckError(AssertionError):
    """A plugin does not keep to what a check demands; the message says what to do."""


class NotApplicableError(Exception):
    """A check says nothing about this plugin; the message says why."""


@dataclass(frozen=True)
class Check:
    """One demand on a plugin.

    Attributes:
        name: Stable name, such as `check_attach_reversible`.
        function: Raises `CheckError` or any other error if the plugin fails, and
            `NotApplicableError` if the check says nothing about it.
    """

    name: str
    function: Callable[[Subject], None]

    @property
    def demand(self) -> str:
        """What it demands, in a sentence."""
        return (self.function.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        name: Name of the check.
        status: What came of it.
        message: Why it failed, does not apply, or was expected to fail; else empty.
    """

    name: str
    status: Status
    message: str = ""


def require(condition: bool, message: str) -> None:
    """Raise `CheckError` with the message unless the condition holds."""
    if not condition:
        raise CheckError(message)
