"""Tells whether an accelerated vision-language model still gives the same answers.

The public names are imported when they are first used, so that `import stabfw` costs nothing.

Example:
    >>> import stabfw
    >>> spec = stabfw.load_spec("spec.yaml", stabfw.Registry())  # doctest: +SKIP
    >>> results = stabfw.run(spec)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabfw.experiment import fit as fit
    from stabfw.experiment import outcomes_of as outcomes_of
    from stabfw.experiment import run as run
    from stabfw.registry import Observers as Observers
    from stabfw.registry import Registry as Registry
    from stabfw.registry import hookimpl as hookimpl
    from stabfw.spec import ExperimentSpec as ExperimentSpec
    from stabfw.spec import load_spec as load_spec
    from stabfw.spec import parse_spec as parse_spec

    __version__: str

_HOMES = {
    "ExperimentSpec": "stabfw.spec",
    "Observers": "stabfw.registry",
    "Registry": "stabfw.registry",
    "fit": "stabfw.experiment",
    "hookimpl": "stabfw.registry",
    "load_spec": "stabfw.spec",
    "outcomes_of": "stabfw.experiment",
    "parse_spec": "stabfw.spec",
    "run": "stabfw.experiment",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stabfw")
    except PackageNotFoundError:
        return "0+not-installed"
