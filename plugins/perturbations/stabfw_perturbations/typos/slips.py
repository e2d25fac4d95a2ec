"""Misspell words as fingers do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stabfw_perturbations.words import change_words

if TYPE_CHECKING:
    import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
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

    return change_words(text, lambda chunk: _WORD.sub(word, chunk))


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
