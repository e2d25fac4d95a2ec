"""Rewrite letters, marks and spaces of a question; its words stay.

Every place draws the same number of random values whether it is changed or not, so a higher rate
changes a superset of the places.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stabfw_perturbations.words import change_lines, change_words

if TYPE_CHECKING:
    import numpy as np

_MARKS = re.compile(r"(?<=\w)[.,;:!?]+(?=\s|$)")
_GAP = re.compile(r"(?<=\S) (?=\S)")


def change_case(text: str, style: str, rate: float, rng: np.random.Generator) -> str:
    """Write words in `lower`, `upper`, `title` or `mixed` case, each with probability `rate`."""

    def word(chunk: str) -> str:
        chance, *letters = rng.random(1 + len(chunk))
        if chance >= rate:
            return chunk
        if style == "mixed":
            return "".join(
                c.upper() if draw < 0.5 else c.lower()
                for c, draw in zip(chunk, letters, strict=True)
            )
        if style == "title":
            return chunk[:1].upper() + chunk[1:].lower()
        return chunk.upper() if style == "upper" else chunk.lower()

    return change_words(text, word)


def change_marks(text: str, style: str, rate: float, rng: np.random.Generator) -> str:
    """Leave out (`drop`) or write three times (`repeat`) the marks that end a word."""

    def marks(match: re.Match[str]) -> str:
        if rng.random() >= rate:
            return match[0]
        return match[0] * 3 if style == "repeat" else ""

    return change_lines(text, lambda line: _MARKS.sub(marks, line))


def change_spaces(text: str, rate: float, rng: np.random.Generator) -> str:
    """Make single spaces between words two or three, each with probability `rate`."""

    def gap(match: re.Match[str]) -> str:
        chance, more = rng.random(2)
        return " " * (2 + int(more * 2)) if chance < rate else match[0]

    return change_lines(text, lambda line: _GAP.sub(gap, line))
