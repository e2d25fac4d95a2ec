"""Changes to a spec from the command line: `--set stacks.fastv.0.layer=3`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stabfw.spec.document import parse
from stabfw.spec.problems import Location, dotted


class OverrideError(ValueError):
    """An override that cannot be applied; the message says why and what to write."""


@dataclass(frozen=True)
class Override:
    """An override that has been applied.

    Attributes:
        text: As the user wrote it.
        location: What it changed.
    """

    text: str
    location: Location


def override(data: Mapping[str, Any], text: str) -> tuple[dict[str, Any], Override]:
    """Apply `KEY=VALUE` to a spec's values.

    KEY is a path of keys and list indices joined by dots; a key that contains dots is recognised
    if it is there already. VALUE is YAML, so `false`, `3`, `[a, b]` and `{type: hqq}` work.

    Returns:
        The changed values, which share what did not change, and what was changed.

    Raises:
        OverrideError: If the path leads nowhere or the value is not YAML.

    Example:
        >>> override({"seeds": [0, 1]}, "seeds.1=7")[0]
        {'seeds': [0, 7]}
    """
    path, equals, written = text.partition("=")
    if not equals or not all(path.split(".")):
        raise OverrideError("expected KEY=VALUE, for example batch_size=4 or seeds.0=1")
    changed, location = _replaced(data, path.split("."), _value(written), ())
    return changed, Override(text, location)


def _value(written: str) -> Any:
    try:
        _, value, problems = parse(written)
    except MarkedYAMLError as error:
        what = " ".join(filter(None, (error.context, error.problem)))
        raise OverrideError(f"the value is not YAML: {what}") from None
    except YAMLError as error:
        raise OverrideError(f"the value is not YAML: {error}") from None
    if problems:
        raise OverrideError(problems[0].message)
    return value


def _replaced(node: Any, path: list[str], value: Any, here: Location) -> tuple[Any, Location]:
    if not path:
        return value, here
    if isinstance(node, str) and _selects(here):
        node = {"type": node}
    if isinstance(node, list):
        index = _index(node, path[0], here)
        changed, location = _replaced(node[index], path[1:], value, (*here, index))
        return [*node[:index], changed, *node[index + 1 :]], location
    if node is None or node is False:
        node = {}
    if not isinstance(node, Mapping):
        raise OverrideError(f"{dotted(here)} is {node!r}, which has no '{path[0]}' in it")
    key, rest = _key(node, path)
    changed, location = _replaced(node.get(key), rest, value, (*here, key))
    return {**node, key: changed}, location


def _key(node: Iterable[str], path: list[str]) -> tuple[str, list[str]]:
    for length in range(len(path), 0, -1):
        if (key := ".".join(path[:length])) in node:
            return key, path[length:]
    return path[0], path[1:]


def _index(node: list[Any], part: str, here: Location) -> int:
    if part.isascii() and part.isdigit() and int(part) < len(node):
        return int(part)
    allowed = f"0 to {len(node) - 1}" if node else "none, for it is empty"
    raise OverrideError(f"{dotted(here)} is a list: '{part}' is not one of its indices ({allowed})")


def _selects(here: Location) -> bool:
    # Where a bare name stands for a component without parameters.
    if here[:1] in {("models",), ("benchmarks",), ("perturbations",), ("metrics",), ("stacks",)}:
        return isinstance(here[-1], int)
    return here == ("calibration", "benchmark")
