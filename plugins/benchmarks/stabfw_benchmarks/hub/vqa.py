"""Soft accuracy over ten people's answers, as in the VQA evaluation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}
# Contractions are compared with their apostrophe, whether it was written or not. Those whose
# letters are a word of their own, such as "its", are left alone.
_CONTRACTIONS = """
    aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't
    shouldn't that's there's they'd they'll they're they've wasn't we've weren't what's where's
    who's won't wouldn't you'd you'll you're you've
"""
_CONTRACTED = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}
_DIGITS_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!:*#$%&~^|]")


def vqa_normalised(text: str) -> str:
    """Fold case, punctuation, articles, numbers up to ten and lost apostrophes.

    After the rules of the VQA evaluation (Antol et al., 2015, "VQA: Visual Question Answering",
    section 3; https://visualqa.org/evaluation.html).

    Example:
        >>> vqa_normalised("The two dogs, dont they?")
        "2 dogs don't they"
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    folded = _PERIOD.sub("", _DIGITS_COMMA.sub("", folded))
    words = (
        _NUMBERS.get(word, _CONTRACTED.get(word, word))
        for word in _PUNCTUATION.sub(" ", folded).split()
        if word not in _ARTICLES
    )
    return " ".join(words)


def soft_accuracy(answer: str, given: Sequence[str]) -> float:
    """Score an answer by how many people gave it.

    The mean, over leaving one person out, of min(1, agreeing others / 3).

    Args:
        answer: Normalised.
        given: The people's answers, normalised; ten of them in the data sets.

    Returns:
        A number from 0 to 1.

    Example:
        >>> round(soft_accuracy("red", ["red"] * 2 + ["blue"] * 8), 4)
        0.6
    """
    matches = [other == answer for other in given]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)
