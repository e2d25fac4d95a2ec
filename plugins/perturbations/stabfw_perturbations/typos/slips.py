"""Misspell words as fingers do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_OPTION_LINE = re.compile(r"\s*\(?[A-Z][.):]\s")
_PROTECTED = re.compile(r"[\d<>\[\]{}|_@/\\]")
_WORD = re.compile(r"[A-Za-z]{2,}")


def misspell(text: str, rate: float, rng: np.random.Generator) -> str:
    """Put one typo into each word with probability `rate`.

    Every word draws the same number of random values whether it is changed or not, so a higher
    rate changes a superset of the words.

    Args:
        text: Lines of text. Lines that start like an option (`A. `) are left alone, and so is
            whatever holds a digit or looks like a special token.
        rate: Probability in [0, 1].
        rng: Source of randomness.

    Returns:
        The text with typos.
    """

    def word(match: re.Match[str]) -> str:
        chance, kind, place, key = rng.random(4)
        return _slip(match[0], kind, place, key) if chance < rate else match[0]

    def chunk(match: re.Match[str]) -> str:
        return match[0] if _PROTECTED.search(match[0]) else _WORD.sub(word, match[0])

    lines = text.splitlines(keepends=True)
    return "".join(
        line if _OPTION_LINE.match(line) else re.sub(r"\S+", chunk, line) for line in lines
    )


def _slip(word: str, kind: float, place: float, key: float) -> str:
    at = int(place * len(word))
    letter = word[at]
    swappable = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    options = [
        word[:at] + _neighbour(letter, key) + word[at + 1 :],
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
    ]
    if swappable:
        i = swappable[int(place * len(swappable))]
        options.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    return options[int(kind * len(options))]


def _neighbours() -> dict[str, str]:
    keys = {(row, x): key for row, keys in enumerate(_ROWS) for x, key in enumerate(keys)}
    # Each row is shifted by half a key, so a key touches two keys of each row beside its own.
    steps = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
    return {
        key: "".join(keys[row + dy, x + dx] for dy, dx in steps if (row + dy, x + dx) in keys)
        for (row, x), key in keys.items()
    }


_NEIGHBOURS = _neighbours()


def _neighbour(letter: str, key: float) -> str:
    near = _NEIGHBOURS[letter.lower()]
    typed = near[int(key * len(near))]
    return typed.upper() if letter.isupper() else typed
