"""How answers are compared with gold ones: pure functions that guess nothing and keep nothing.

Yes or no and options are read by `stabfw.components` and compared for equality; here is the rest.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stabfw.components import Graded

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
_NUMBER = re.compile(r"\$?\s*([-+]?(?:\d[\d,]*\.?\d*|\.\d+))\s*(%?)")
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


_BRACKETS = re.compile(r"\([^()]*\)|（[^（）]*）")
_NO_WORD = re.compile(r"[^\w\s]|_")


def words_normalised(text: str) -> str:
    """Fold case, width, white space, punctuation and what stands in brackets.

    Example:
        >>> words_normalised("X-ray (chest).")
        'x ray'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for bare in (_BRACKETS.sub(" ", folded), folded):
        # What is nothing but brackets is kept.
        if words := _NO_WORD.sub(" ", bare).split():
            return " ".join(words)
    return ""


def token_recall(answer: str, gold: str) -> float:
    """Return the share of the gold answer's words that an answer holds, each as often as there.

    Both are normalised first. Answers without spaces, as in Chinese, are one word.

    Example:
        >>> token_recall("the left lung", "left upper lung")
        0.6666666666666666
    """
    wanted, said = (Counter(words_normalised(text).split()) for text in (gold, answer))
    return (wanted & said).total() / wanted.total() if wanted else 0.0


def contains_any(answer: str, golds: Iterable[str]) -> bool:
    """Tell whether one of the gold answers stands somewhere in an answer; an empty one never does.

    Both are to be folded alike before.
    """
    return any(gold in answer for gold in golds if gold)


def anls(answer: str, golds: Iterable[str], threshold: float = 0.5) -> float:
    """Return the average normalised Levenshtein similarity of one question (DocVQA).

    Args:
        answer: What was answered; case and white space are folded.
        golds: Answers that count; the closest one does.
        threshold: A distance from here on, relative to the longer text, gives no points.

    Returns:
        A number from 0 to 1.

    Source:
        Biten et al., "Scene Text Visual Question Answering", ICCV 2019, equation 1.

    Example:
        >>> round(anls("Berlim", ["Berlin"]), 3)
        0.833
    """
    best, text = 0.0, " ".join(answer.casefold().split())
    for gold in golds:
        other = " ".join(gold.casefold().split())
        distance = _levenshtein(text, other) / max(len(text), len(other), 1)
        if distance < threshold:
            best = max(best, 1 - distance)
    return best


def relaxed_equal(answer: str, gold: str, tolerance: float = 0.05) -> bool:
    """Tell whether two answers are equal, or numbers that differ by 5 % of the gold one at most.

    A per cent sign divides by 100, as in the evaluation of ChartQA; a gold answer of 0 has to be
    met exactly.

    Source:
        Methani et al., "PlotQA", WACV 2020, section 5; Masry et al., "ChartQA", ACL 2022.

    Example:
        >>> relaxed_equal("1,030", "1000"), relaxed_equal("1060", "1000")
        (True, False)
    """
    said, meant = as_number(answer), as_number(gold)
    if said is None or meant is None:
        return words_normalised(answer) == words_normalised(gold)
    return abs(said - meant) <= tolerance * abs(meant)


def as_number(text: str) -> float | None:
    """Return the number that a text is, None where it is something else.

    Example:
        >>> as_number("$1,200"), as_number("5%"), as_number("many")
        (1200.0, 0.05, None)
    """
    found = _NUMBER.fullmatch(unicodedata.normalize("NFKC", text).strip())
    if found is None:
        return None
    value = float(found[1].replace(",", ""))
    return value / 100 if found[2] else value


class Detection(NamedTuple):
    """How well yes is told from no, with yes as what is looked for."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def detection(graded: Sequence[Graded]) -> Detection:
    """Score yes-or-no answers as POPE does (Li et al., EMNLP 2023, section 5).

    What could not be read is neither yes nor no: it is wrong, and lowers recall where yes is
    right. A ratio whose denominator is 0 is 0.

    Args:
        graded: Answers to questions whose reference is `yes` or `no`.
    """
    pairs = [(one.references == ("yes",), one.answer.value) for one in graded]
    true = sum(gold and said == "yes" for gold, said in pairs)
    said_yes = sum(said == "yes" for _, said in pairs)
    precision = share(true, said_yes)
    recall = share(true, sum(gold for gold, _ in pairs))
    return Detection(
        accuracy=share(sum(one.score.correct for one in graded), len(graded)),
        precision=precision,
        recall=recall,
        f1=share(2 * precision * recall, precision + recall),
        yes_ratio=share(said_yes, len(graded)),
    )


def accuracy(graded: Sequence[Graded]) -> float:
    """Share of right answers."""
    return share(sum(one.score.correct for one in graded), len(graded))


def mean_score(graded: Sequence[Graded]) -> float:
    """Mean of the scores."""
    return share(sum(one.score.value for one in graded), len(graded))


def by_level(graded: Iterable[Graded], name: str) -> dict[str, list[Graded]]:
    """Sort answers by the level of a slice, the levels in alphabetical order."""
    found: dict[str, list[Graded]] = {}
    for one in graded:
        if level := one.slices.get(name):
            found.setdefault(level, []).append(one)
    return dict(sorted(found.items()))


def groups(graded: Iterable[Graded]) -> list[list[Graded]]:
    """Put answers together that are scored together."""
    found: dict[str, list[Graded]] = {}
    for one in graded:
        found.setdefault(one.group_id, []).append(one)
    return list(found.values())


def group_accuracy(graded: Iterable[Graded]) -> float:
    """Share of groups of which every answer is right."""
    together = groups(graded)
    return share(sum(all(one.score.correct for one in group) for group in together), len(together))


def share(part: float, whole: float) -> float:
    """A ratio, 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0


def _levenshtein(one: str, other: str) -> int:
    above = list(range(len(other) + 1))
    for row, left in enumerate(one, 1):
        line = [row]
        for column, right in enumerate(other, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (left != right)))
        above = line
    return above[-1]
