"""Reading an answer out of generated text: pure functions that never guess."""

from __future__ import annotations

import re
import unicodedata

from stabfw.components.data import Answer, AnswerKind, AnswerStatus, Choice

_YES_NO = re.compile(r"\b(yes|no)\b")
_LETTER = re.compile(r"\(?([A-Z])(?:\)|\.|:|,|$|\s*\n)")
_NAMED_LETTER = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?([A-Z])\b")


def normalised(text: str) -> str:
    """Fold what does not change a short answer: case, white space, width, a final full stop.

    Example:
        >>> normalised("  Top  LEFT. ")
        'top left'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split()).rstrip(". ")


def extract_text(text: str, kind: AnswerKind) -> Answer:
    """Read a short or free answer: the whole text, normalised."""
    value = normalised(text)
    return Answer(value, kind) if value else missing(text, kind)


def extract_yes_no(text: str) -> Answer:
    """Read `yes` or `no`: the first of these words, as a word of its own.

    Example:
        >>> extract_yes_no("Notice: yes.").value
        'yes'
    """
    found = _YES_NO.search(normalised(text))
    return Answer(found[1], AnswerKind.YES_NO) if found else missing(text, AnswerKind.YES_NO)


def extract_choice(text: str, choices: tuple[Choice, ...]) -> Answer:
    """Read the id of a choice from its letter as shown, or from its text.

    Args:
        text: The generated text.
        choices: The options in the order in which they were shown.

    Returns:
        The id of the choice, or `invalid` if no option is named.

    Example:
        >>> shown = (Choice("x", "red"), Choice("y", "blue"))
        >>> extract_choice("B.", shown).value, extract_choice("Red", shown).value
        ('y', 'x')
    """
    stripped = text.strip()
    by_text = {normalised(choice.text): choice.id for choice in choices}
    if (value := by_text.get(normalised(text))) is not None:
        return Answer(value, AnswerKind.CHOICE)
    found = _LETTER.match(stripped) or _NAMED_LETTER.search(stripped)
    place = ord(found[1]) - ord("A") if found else len(choices)
    if place < len(choices):
        return Answer(choices[place].id, AnswerKind.CHOICE)
    return missing(text, AnswerKind.CHOICE)


def missing(text: str, kind: AnswerKind) -> Answer:
    """The answer where none could be read."""
    status = AnswerStatus.INVALID if text.strip() else AnswerStatus.EMPTY
    return Answer(None, kind, status)
