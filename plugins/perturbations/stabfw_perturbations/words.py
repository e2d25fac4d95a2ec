"""Which parts of a question a text perturbation may touch."""

from __future__ import annotations

import re
from collections.abc import Callable

_OPTION_LINE = re.compile(r"\s*\(?[A-Z][.):]\s")
_PROTECTED = re.compile(r"[\d<>\[\]{}|_@/\\]")


def change_words(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to whatever stands between white space and is made of words.

    Lines that start like an option (`A. `) stay, and so does what holds a digit or looks like a
    special token such as `<image>`.
    """

    def chunk(match: re.Match[str]) -> str:
        return match[0] if _PROTECTED.search(match[0]) else change(match[0])

    return change_lines(text, lambda line: re.sub(r"\S+", chunk, line))


def change_lines(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to each line, with its end, but not to those that start like an option."""
    lines = text.splitlines(keepends=True)
    return "".join(line if _OPTION_LINE.match(line) else change(line) for line in lines)
