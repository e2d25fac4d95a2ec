"""How a judge, which is a model, is asked about a free answer, and how its replies are read.

Reading never guesses: a reply that names no verdict, or more than one, is None.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from stabfw.components.data import Instance

#: What one reply says, in numbers; how many there are is up to the rubric.
Verdict = tuple[float, ...]


class Rubric(ABC):
    """What a judge is asked about an answer, and what its replies are worth. Pure, without state.

    A judge sees text only. The whole question is what its reply is kept under, so another wording
    is asked anew.

    Attributes:
        orders: Number of questions about one answer: 2 where it is shown beside another text, once
            in each order.
    """

    orders: ClassVar[int] = 1

    @abstractmethod
    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        """Return what is asked about an answer, as many texts as there are `orders`.

        Args:
            instance: The question without perturbation, whose references are the gold answers.
            answer: What was generated.
        """

    @abstractmethod
    def read(self, reply: str, order: int) -> Verdict | None:
        """Return what a reply says, the same in whichever order it was asked; None if nothing.

        Args:
            reply: What the judge wrote.
            order: Which of the questions it replies to, from 0.
        """

    @abstractmethod
    def score(self, verdicts: Sequence[Verdict]) -> float:
        """Return what the verdicts of all orders are worth together, 1 being full marks."""


_NUMBER = r"(?<![\w.,/-])\d+(?:\.\d+)?"
#: Behind a number stand neither its rest nor another one that it is a part or an alternative of.
_END = (
    r"(?![\w%/]|[.,]\d)(?!\s*(?:[-\u2013,/%|&]|\bto\b|\bor\b|\band\b|\bof\b|\bout\s+of\b)\s*[\d.])"
)
_SCORE = re.compile(rf"({_NUMBER})(?:\s*/\s*1(?:\.0+)?)?{_END}")
#: A whole number may begin a list or a sentence, so little may follow it.
_ALONE = re.compile(r"\.?\s*(?:$|\n|[(|])")
_CUE = re.compile(
    r"\b(?:score|correctness|verdict|answer)(?:\s+(?:is|of|would\s+be)\b\s*[:=]?|\s*[:=])\s*",
    re.IGNORECASE,
)
_RATING = rf"({_NUMBER})(?:\s*/\s*10)?"
_RATINGS = re.compile(
    rf"(?:(?:scores?|ratings?)\s*[:=]?)?\s*{_RATING}(?:\s*[,;|&]\s*|\s+and\s+|\s+){_RATING}"
    r"\.?\s*(?:\n|$)",
    re.IGNORECASE,
)
_FIRST, _SECOND = (
    re.compile(rf"\b(?:answer|assistant|response)\s*{n}\s*[:=]\s*{_RATING}(?![\w/%-]|\.\d)", re.I)
    for n in (1, 2)
)
_YES_NO = re.compile(r"(yes|no)(?=\s*(?:[.,;:!)\n\u2013\u2014]|$))", re.IGNORECASE)


def read_score(reply: str) -> float | None:
    """Read a score from 0 to 1: the number that a reply begins with, or that it names as its score.

    Two different ones are none.

    Example:
        >>> read_score("0.5/1"), read_score("Score: 0.7"), read_score("0.5 or 0.6"), read_score("8")
        (0.5, 0.7, None, None)
    """
    text = _said(reply)
    found = [_SCORE.match(text, cue.end()) for cue in _CUE.finditer(text)]
    begin = _SCORE.match(text)
    if begin is not None and ("." in begin[1] or _ALONE.match(text, begin.end())):
        found.append(begin)
    values = {float(number[1]) for number in found if number is not None}
    value = values.pop() if len(values) == 1 else None
    return value if value is not None and 0 <= value <= 1 else None


def read_ratings(reply: str) -> tuple[float, float] | None:
    """Read two ratings from 1 to 10, alone on the first line or each behind its answer's number.

    Example:
        >>> read_ratings("Score: 7 8"), read_ratings("Answer 1: 7, Answer 2: 8.5")
        ((7.0, 8.0), (7.0, 8.5))
        >>> read_ratings("7 8 9"), read_ratings("7 11")
        (None, None)
    """
    text = _said(reply)
    if (line := _RATINGS.match(text)) is not None:
        first, second = {float(line[1])}, {float(line[2])}
    else:
        first, second = ({float(n) for n in label.findall(text)} for label in (_FIRST, _SECOND))
    if len(first) != 1 or len(second) != 1:
        return None
    pair = first.pop(), second.pop()
    return pair if all(1 <= value <= 10 for value in pair) else None


def read_yes_no(reply: str) -> bool | None:
    """Read yes or no: the word that a reply begins with, or that it names as its answer.

    Both are none.

    Example:
        >>> read_yes_no("Yes."), read_yes_no("No, not correct"), read_yes_no("not correct")
        (True, False, None)
    """
    text = _said(reply)
    places = [0, *(cue.end() for cue in _CUE.finditer(text))]
    found = [_YES_NO.match(text, place) for place in places]
    words = {word[1].casefold() for word in found if word is not None}
    return words == {"yes"} if len(words) == 1 else None


def _said(reply: str) -> str:
    """The reply without thinking and mark-up."""
    text = reply.rpartition("</think>")[2].partition("<think>")[0]
    return re.sub(r"[*`#_\"\u201c\u201d]", "", text).strip()
