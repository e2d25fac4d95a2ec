"""A YAML file whose values remember where they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.tag import Tag

from stabfw.errors import SpecError
from stabfw.spec.problems import KEY, Location, Problem

_TEXT = "tag:yaml.org,2002:str"
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """A spec file as read.

    Attributes:
        name: The path as the user wrote it.
        lines: Its lines.
        root: The YAML nodes, which know their positions.
        data: Their values as dicts, lists, text, numbers, booleans and None.
        problems: What is wrong with it as YAML, although it can be read.
    """

    name: str
    lines: tuple[str, ...]
    root: Node
    data: dict[str, Any]
    problems: tuple[Problem, ...]

    def trace(self, location: Location) -> Trace:
        """Follow a location as far as it exists in the file."""
        node, key_mark = self.root, self.root.start_mark
        mark, path = key_mark, list[int | str]()
        for part in location:
            if part == KEY:
                return Trace(key_mark.line + 1, key_mark.column + 1, (*path, KEY), True)
            if isinstance(part, int) and not isinstance(node, SequenceNode):
                # A single perturbation stands for a composition of one.
                continue
            key, child = _child(node, part)
            if child is None:
                return Trace(mark.line + 1, mark.column + 1, (*path, part), False)
            node, key_mark = child, (key or child).start_mark
            block = isinstance(child, MappingNode | SequenceNode) and not child.flow_style
            mark = key_mark if block else child.start_mark
            path.append(part)
        return Trace(mark.line + 1, mark.column + 1, tuple(path), True)


@dataclass(frozen=True)
class Trace:
    """Where a location is in a file.

    Attributes:
        line: Line of its deepest part that exists, from 1.
        column: Column of that part, from 1.
        path: The location as the author would write it.
        complete: Whether all of it exists.
    """

    line: int
    column: int
    path: Location
    complete: bool


def read(path: str | Path) -> Document:
    """Read a spec file.

    Raises:
        SpecError: If it cannot be read as one YAML mapping in UTF-8.
    """
    name = str(path)
    try:
        text = _decoded(name, Path(path).read_bytes())
    except FileNotFoundError:
        raise SpecError(
            f"{name}: no such file. Write one to start from with: stabfw init {name}"
        ) from None
    except OSError as error:
        raise SpecError(f"{name}: cannot be read: {error.strerror}") from error
    lines = tuple(text.splitlines())
    try:
        root, data, problems = parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        raise SpecError(shown(name, lines, mark.line + 1, mark.column + 1, what)) from None
    except ReaderError as error:
        line, column = _count(text[: error.position])
        what = f"the character {chr(error.character)!r} is not allowed in YAML"
        raise SpecError(shown(name, lines, line, column, what)) from None
    if not isinstance(data, dict):
        what = "is empty" if root is None else "must be a mapping (`key: value` lines)"
        line, column = (1, 1) if root is None else (root.start_mark.line + 1, 1)
        what = f"the spec {what}. See a valid one with: stabfw init example.yaml"
        raise SpecError(shown(name, lines, line, column, what))
    return Document(name, lines, root, data, tuple(problems))


def parse(text: str) -> tuple[Any, Any, list[Problem]]:
    """Parse YAML 1.2 into nodes and values, and find what JSON could not express.

    Raises:
        ruamel.yaml.error.YAMLError: If it is not YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    root = yaml.compose(text)
    if root is None:
        return None, None, []
    problems = list(_unfit(root, (), ()))
    yaml.constructor.allow_duplicate_keys = True
    return root, yaml.constructor.construct_document(root), problems


def shown(name: str, lines: tuple[str, ...], line: int, column: int, message: str) -> str:
    """A message with file, line and column, and the line with a caret under the column."""
    head = f"{name}:{line}:{column}: {message}"
    if not 1 <= line <= len(lines):
        return head
    text = lines[line - 1]
    # Tabs are kept, so that the caret is where the terminal shows the column.
    indent = "".join("\t" if char == "\t" else " " for char in text[: column - 1])
    return f"{head}\n    {text}\n    {indent}^"


def _unfit(node: Node, location: Location, above: tuple[int, ...]) -> Iterator[Problem]:
    if isinstance(node, ScalarNode):
        if node.tag == _DATE:
            # A spec has no dates; a revision or a name may look like one.
            node.ctag = Tag(suffix=_TEXT)
        try:
            # JSON writes characters beyond the basic plane as two escapes, which YAML keeps apart.
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            yield _at(node, "half of a character: the other surrogate is missing", location)
        return
    if id(node) in above:
        what = "an alias refers to the value that contains it"
        raise ComposerError(None, None, what, node.start_mark)
    above = (*above, id(node))
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _unfit(item, (*location, index), above)
        return
    seen: set[str] = set()
    for key, value in list(node.value):
        if key.tag == _MERGE:
            yield from _unfit(value, location, above)
            continue
        if not isinstance(key, ScalarNode):
            yield _at(key, "a key must be text", location)
            continue
        if key.tag not in (_TEXT, _DATE):
            yield _at(key, f'the key {key.value} is not text: write "{key.value}"', location)
        elif key.value in seen:
            yield _at(key, f"the key '{key.value}' is there twice: leave one out", location)
            node.value.remove((key, value))
            continue
        key.ctag = Tag(suffix=_TEXT)
        seen.add(key.value)
        yield from _unfit(value, (*location, key.value), above)


def _at(node: Node, message: str, location: Location) -> Problem:
    mark = node.start_mark
    return Problem(message, location, mark.line + 1, mark.column + 1)


def _child(node: Node, part: int | str) -> tuple[Node | None, Node | None]:
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    if isinstance(node, MappingNode):
        # Merged pairs come first; a mapping's own come later and win.
        for key, value in reversed(node.value):
            if key.value == part:
                return key, value
    return None, None


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        line, column = _count(before)
        raise SpecError(
            f"{name}:{line}:{column}: the byte 0x{data[error.start]:02x} is not UTF-8: "
            "save the file as UTF-8"
        ) from None


def _count(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
