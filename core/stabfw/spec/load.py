"""From a file or a mapping to a valid spec, or to everything that is wrong with it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from stabfw.errors import Exit, SpecError, UnknownPluginError
from stabfw.registry import Registry
from stabfw.spec.document import Document, read, shown
from stabfw.spec.models import ExperimentSpec
from stabfw.spec.overrides import Override, OverrideError, override
from stabfw.spec.problems import Problem, dotted, problems


def load_spec(
    path: str | Path, registry: Registry, overrides: Iterable[str] = ()
) -> ExperimentSpec:
    """Read a spec file and load the plugins that it names.

    Args:
        path: A YAML file; JSON is YAML, too.
        registry: Where plugins are looked up.
        overrides: Changes as `KEY=VALUE`, applied in order, see `stabfw.spec.overrides`.

    Raises:
        SpecError: If it is not valid. The message lists every problem with file, line and column.
            Its exit code is that of a broken plugin if there is no other problem.
    """
    document = read(path)
    data: Mapping[str, Any] = document.data
    applied: list[Override] = []
    messages: list[tuple[tuple[int, int], str]] = []
    for text in overrides:
        try:
            data, change = override(data, text)
            applied.append(change)
        except OverrideError as error:
            messages.append(((0, len(messages)), f"--set {text}: {error}"))
    spec, found = _validated(data, registry)
    found = [*document.problems, *found]
    if spec and not found and not messages:
        return spec
    messages += [_placed(problem, document, applied) for problem in found]
    # Problems that stand at one place keep the order in which they were found.
    messages.sort(key=lambda item: item[0])
    raise _error([text for _, text in messages], found)


def parse_spec(mapping: Mapping[str, Any], registry: Registry) -> ExperimentSpec:
    """Make a spec from values as they would be in a file, or from `ExperimentSpec.dump()`.

    Raises:
        SpecError: If it is not valid; the message lists every problem.

    Example:
        >>> from stabfw import Registry
        >>> parse_spec(
        ...     {"stabfw": 1, "name": "demo", "models": ["tiny-llava"], "benchmarks": ["shapes"]},
        ...     Registry(),
        ... ).hash()  # doctest: +SKIP
    """
    spec, found = _validated(mapping, registry)
    if spec is None:
        raise _error([_unplaced(problem) for problem in found], found)
    return spec


def to_yaml(spec: ExperimentSpec) -> str:
    """Write a spec as YAML, with all defaults and in its own order; `load_spec` reads it."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(spec.dump(), text)
    return text.getvalue()


def _validated(data: object, registry: Registry) -> tuple[ExperimentSpec | None, list[Problem]]:
    try:
        return ExperimentSpec.model_validate(data, context=registry), []
    except ValidationError as error:
        return None, problems(error)


def _placed(
    problem: Problem, document: Document, applied: Sequence[Override]
) -> tuple[tuple[int, int], str]:
    if problem.line is not None:
        place = problem.line, problem.column
        return place, shown(document.name, document.lines, *place, problem.message)
    trace = document.trace(problem.location)
    for change in reversed(applied):
        inside = problem.location[: len(change.location)] == change.location
        made = change.location[: len(problem.location)] == problem.location
        if inside or (made and not trace.complete):
            return (0, 0), f"--set {change.text}: {_unplaced(problem)}"
    place = trace.line, trace.column
    message = f"{dotted(trace.path)}: {problem.message}".removeprefix(": ")
    return place, shown(document.name, document.lines, *place, message)


def _unplaced(problem: Problem) -> str:
    return f"{dotted(problem.location)}: {problem.message}".removeprefix(": ")


def _error(messages: Sequence[str], found: Sequence[Problem]) -> SpecError:
    count = [f"{len(messages)} problems:"] if len(messages) > 1 else []
    error = SpecError("\n".join([*count, *messages]))
    causes = [problem.cause for problem in found]
    if all(cause and not isinstance(cause, UnknownPluginError) for cause in causes) and causes:
        error.exit_code = Exit.PLUGIN
    error.__cause__ = next(filter(None, causes), None)
    return error
