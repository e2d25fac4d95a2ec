"""The errors a user can meet, and the exit code each kind of trouble ends with."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator


class Exit(enum.IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    GATE_FAILED = 1
    USAGE = 2
    PLUGIN = 3
    INCOMPLETE = 4
    INCONCLUSIVE = 5
    NOT_MEASURABLE = 6
    INTERRUPTED = 130


class StabfwError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code: Exit = Exit.USAGE


class SpecError(StabfwError):
    """The experiment spec is not valid; the message lists every problem with its position."""


class DataError(StabfwError):
    """A benchmark's data is missing, unreadable or not in the expected form."""


class StoreError(StabfwError):
    """The outcome store cannot be used as it is."""


class RunError(StabfwError):
    """An experiment cannot be run where or how it was asked for."""


class IncompleteError(StabfwError):
    """Some cells failed, so a result would be partial."""

    exit_code = Exit.INCOMPLETE


class PluginError(StabfwError):
    """A plugin is unknown, broken or in conflict with another one."""

    exit_code = Exit.PLUGIN


@contextlib.contextmanager
def blaming(plugin: str, method: str) -> Iterator[None]:
    """Turn whatever a plugin raises, but for our own errors, into one that names it.

    Args:
        plugin: Its name, distribution and version.
        method: What was called.
    """
    try:
        yield
    except StabfwError:
        raise
    except Exception as error:
        raise PluginError(
            f"{plugin} fails in {method}: {type(error).__name__}: {error}; report it to its "
            "authors, or leave it out of the spec"
        ) from error


class UnknownPluginError(PluginError):
    """No installed distribution offers a component of that name."""

    exit_code = Exit.USAGE


class PluginLoadError(PluginError):
    """A plugin was found, but could not be loaded or does not keep to its contract."""


class PluginConflictError(PluginError):
    """Two distributions offer a component of the same kind and name."""


class UnsupportedError(StabfwError):
    """A component cannot work with this model; the message says why."""

    exit_code = Exit.PLUGIN
