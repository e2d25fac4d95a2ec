"""Reading an answer out of generated text: pure functions that never guess.

The rules are told in docs/answers.md, and tests/components/extraction_cases.yaml holds an example
of each. Patterns are anchored, or repeat nothing that can follow itself, so the time grows with
the length of the text only. Raise `EXTRACTOR_VERSION` with every change of what is read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from stabfw.components.data import Answer, AnswerKind, AnswerStatus, Choice

#: Version of the rules in this module; a part of every scorer's version.
EXTRACTOR_VERSION = 2

_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
_JSON_KEYS = ("answer", "final_answer", "final answer", "choice", "option", "prediction")
_SPECIAL = re.compile(r"<\|[a-z_]{1,30}\|>|</?s>|<end_of_utterance>|<end_of_turn>|<eos>")
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit)\{([^{}]{0,200})\}")
_NEXT_TURN = re.compile(r"\n(?:question|q|user|human)(?: \d{1,4})? ?:", re.IGNORECASE)
_ROLE = re.compile(r"(?:assistant|model) ?:", re.IGNORECASE)
_EMPHASIS = str.maketrans({**dict.fromkeys('*`$#"\u201c\u201d'), "\u2019": "'", "\u2018": "'"})

#: Behind these words stands the answer: strong ones are believed, weak ones only if nothing else
#: stands there.
_CUE = re.compile(
    r"""
    \b(?:answer|choice|option|letter)
    (?:\s(?:is|would\sbe|should\sbe|must\sbe|will\sbe|seems\sto\sbe|appears\sto\sbe)\b\s?[:=]?
      | \s?[:=])
    | \bconclusion\s?:
    | \bi(?:'d|'ll|\swould|\swill)?\s(?:choose|pick|select|go\swith)\b
    | 答案\s?(?:应该|应|就)?(?:是|为|选)?\s?:?
    | (?:应该?|我|故|所以)选(?:择|项)?\s?:?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WEAK_CUE = re.compile(
    r"\b(?:so|therefore|thus|hence)\b,?|\bit(?:\sis|'s)\b|\bi\s(?:think|believe)\b|\n",
    re.IGNORECASE,
)
_CUES = 20
_REACH = 300
_MENTIONS_IN = 2000
_SENTENCE_END = re.compile(r"[.!?;] |[。!?;\n]|[.!?]$")
_ARTICLE = re.compile(r"(?:a|an|the) ")
_EDGE = " \n.,;:!?'()[]{}<>\u3002\u3001_"

_YES = "yes|yeah|yep|yup"
_NO = "no|nope|nah"
_WHOLE = {
    **dict.fromkeys([*_YES.split("|"), "y", "true", "是", "是的", "对", "对的", "有"], "yes"),
    **dict.fromkeys([*_NO.split("|"), "n", "false", "否", "不是", "不", "不对", "没有"], "no"),
}
_BOTH = re.compile(
    r"\b(?:yes ?(?:or|and|/) ?no|no ?(?:or|and|/) ?yes)\b|是否|有没有", re.IGNORECASE
)
_LEADING_YES_NO = re.compile(
    rf"""[\s('\[]*
    (?:(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?![\w'-])
       (?!\s(?:idea|clue|way|answer|information|doubt|problem)\b|\.\s?\d)
    | (?:(?P<shi>是的|是|对的|对|有)|(?P<fou>不是的|不是|不对|没有|否|不))(?=[\s.,;:!?。、)]|$))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DECISIVE = re.compile(
    rf"(?<![\w'-])(?<!not )(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?=[.,;:!?)\]。、\n]|$)(?!\.\s?\d)",
    re.IGNORECASE,
)

#: Openings by which a model declines. Only read where no answer can be.
_REFUSAL = re.compile(
    r"""
    \b(?:can't|cannot|can\snot|unable\sto|not\sable\sto)\s(?:\w+\s){0,2}?
      (?:see|view|access|open|display|process|analy[sz]e|load|interpret)\s(?:[\w-]+\s){0,4}?
      (?:images?|pictures?|photos?|photographs?|files?|attachments?)\b
    | \bi(?:\s(?:can't|cannot|can\snot|won't|will\snot)|(?:'m|\sam)\s(?:unable|not\sable)\sto)
      \s(?:\w+\s){0,2}?(?:assist|help|answer|comply|provide|fulfill?|identify|comment)\b
    | \bas\san\sai\b
    | ^(?:i'm|i\sam|we're|we\sare)\s(?:very\s)?sorry\b
    | ^sorry\b,?\s(?:but\s)?i\b
    | ^i\sapologi[sz]e\b
    | ^(?:很)?(?:抱歉|对不起)
    | 我?无法(?:查看|看到|识别|回答|访问)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SHORT_CUE = re.compile(
    r"(?:so |thus |therefore |hence )?,? ?(?:the |my )?(?:final |correct |short )?answer"
    r"(?: is ?:?| ?:) ?",
    re.IGNORECASE,
)

_NUMBER = re.compile(
    r"(?<![\w.])(?<!\d[,/-])[+-]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?<=\d)(?:e[+-]?\d{1,3})?"
    r"(?![\d]|[.,/]\d|-\d)",
    re.IGNORECASE,
)
_DIGITS = 60
_SPELLED = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        map(str, range(11)),
        strict=True,
    )
)

#: What a text names that is none of the options.
_NO_OPTION = "\0"
_Read = Callable[[str], set[str]]


def normalised(text: str) -> str:
    """Fold what does not change a short answer: case, white space, width, a final full stop.

    Example:
        >>> normalised("  Top  LEFT. ")
        'top left'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split()).rstrip(". ")


def final_answer(text: str) -> str:
    r"""Return the part of a text that is marked as the answer; the whole text if none is.

    Thinking (`<think>`) is left out. Then, in this order, the value of `answer` in a JSON object,
    the last `<answer>`, the last `\boxed{}`.

    Example:
        >>> final_answer("<think>Red? No.</think>So <answer>blue</answer>")
        'blue'
    """
    text = _from_json(_without_thoughts(text))
    _, tag, behind = text.rpartition("<answer>")
    if tag:
        text = behind.partition("</answer>")[0]
    return _boxed(text)


def _without_thoughts(text: str) -> str:
    for opening, closing in _THOUGHTS:
        # What opens the thinking may be in the prompt, and what closes it may never have come.
        text = text.rpartition(closing)[2].partition(opening)[0]
    return text.strip()


def _from_json(text: str) -> str:
    body = text
    if body.startswith("```") and body.endswith("```"):
        body = body[3:-3].removeprefix("json").strip()
    if not (body.startswith("{") and body.endswith("}")):
        return text
    try:
        # As text, so that numbers are neither changed nor too long.
        content = json.loads(body, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return text
    values = {key.strip().casefold(): value for key, value in content.items()}
    found = [values[key] for key in _JSON_KEYS if isinstance(values.get(key), str | bool)]
    return str(found[0]) if found else text


def _boxed(text: str) -> str:
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    begin = start + len("\\boxed{")
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return text


def _plain(text: str) -> str:
    """Fold width, white space and mark-up, keeping lines and case; cut off invented turns."""
    text = unicodedata.normalize("NFKC", text)
    text = _LATEX.sub(r"\1", _SPECIAL.sub(" ", text)).replace("\\(", "").replace("\\)", "")
    text = text.translate(_EMPHASIS).replace("__", "")
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = "\n".join(line for line in lines if line)
    if role := _ROLE.match(text):
        text = text[role.end() :].lstrip()
    turn = _NEXT_TURN.search(text)
    return text[: turn.start()] if turn else text


def _decided(text: str, kind: AnswerKind, read: _Read) -> Answer:
    """Read the marked part of a text, or all of it if that part names nothing."""
    part, whole = final_answer(text), _without_thoughts(text)
    found = read(_plain(part)) or (read(_plain(whole)) if part != whole else set())
    if len(found) == 1 and _NO_OPTION not in found:
        return Answer(found.pop(), kind)
    return missing(text, kind)


def missing(text: str, kind: AnswerKind) -> Answer:
    """The answer where none could be read: `empty`, a `refusal`, or else `invalid`."""
    if not text.strip():
        status = AnswerStatus.EMPTY
    elif _REFUSAL.search(_beginning(text)):
        status = AnswerStatus.REFUSAL
    else:
        status = AnswerStatus.INVALID
    return Answer(None, kind, status)


def _beginning(text: str) -> str:
    return _plain(_without_thoughts(text)[: 2 * _REACH])[:_REACH]


def _declared(plain: str) -> list[str]:
    """What stands behind the last cues, the last one first."""
    places = [cue.end() for cue in _CUE.finditer(plain)][-_CUES:]
    return [plain[place : place + _REACH].lstrip() for place in reversed(places)]


def _sentence(text: str) -> str:
    """The first sentence, or as much of it as is looked at."""
    end = _SENTENCE_END.search(text[:_REACH])
    return text[: end.start()] if end else text[:_REACH]


def extract_text(text: str, kind: AnswerKind, fold: Callable[[str], str] = normalised) -> Answer:
    """Read a short or free answer: the text that is marked as the answer, folded.

    Of a free answer only the thinking is left out. A text that opens with a refusal is one.

    Args:
        text: The generated text.
        kind: `short` or `free`.
        fold: Makes equal what counts as the same answer.

    Example:
        >>> extract_text("The answer is **Top left**.", AnswerKind.SHORT).value
        'top left'
    """
    beginning = _beginning(text)
    refusal = _REFUSAL.search(beginning)
    if refusal is not None and _sentence(beginning).startswith(beginning[: refusal.end()]):
        return missing(text, kind)
    part = _without_thoughts(text) if kind is AnswerKind.FREE else _short(final_answer(text))
    value = fold(part)
    return Answer(value, kind) if value else missing(text, kind)


def _short(text: str) -> str:
    lines = (" ".join(line.split()) for line in _SPECIAL.sub(" ", text).splitlines())
    text = "\n".join(line for line in lines if line)
    if turn := _NEXT_TURN.search(text):
        text = text[: turn.start()]
    text = text.replace("**", "").replace("__", "")
    if cue := _SHORT_CUE.match(text):
        text = text[cue.end() :]
    text = text.rstrip(". ")
    for mark in "\"'`*":
        if len(text) > 2 and text[0] == text[-1] == mark and text.count(mark) == 2:
            text = text[1:-1]
    return text


def extract_yes_no(text: str) -> Answer:
    """Read `yes` or `no`: behind "the answer is", at the beginning, or as a sentence of its own.

    A sentence that states a fact ("There is no dog.") holds neither.

    Example:
        >>> extract_yes_no("Notice: yes.").value
        'yes'
    """
    return _decided(text, AnswerKind.YES_NO, _read_yes_no)


def _read_yes_no(plain: str) -> set[str]:
    if whole := _WHOLE.get(plain.strip(_EDGE).casefold()):
        return {whole}
    plain = _BOTH.sub(" ", plain).strip()
    for behind in [*_declared(plain), plain]:
        if found := _LEADING_YES_NO.match(behind):
            return {"yes" if found["yes"] or found["shi"] else "no"}
    found = _DECISIVE.search(plain)
    return {"yes" if found["yes"] else "no"} if found else set()


def extract_number(text: str, kind: AnswerKind = AnswerKind.SHORT) -> Answer:
    """Read a number as plain decimal digits, so that equal numbers are equal answers.

    Args:
        text: The generated text.
        kind: Kind of the question.

    Returns:
        The number that the text is, that stands behind "the answer is", or that is the only one
        in the text. Units and per cent signs are left out.

    Example:
        >>> extract_number("There are 1,200.0 of them.").value
        '1200'
    """
    return _decided(text, kind, _read_number)


def _read_number(plain: str) -> set[str]:
    plain = plain.replace("\u2212", "-")
    if spelled := _SPELLED.get(plain.strip(_EDGE).casefold()):
        return {spelled}
    for behind in _declared(plain):
        sentence = _sentence(behind)
        if found := _numbers(sentence):
            return found
        if spelled := _SPELLED.get(sentence.strip(_EDGE).casefold()):
            return {spelled}
    return _numbers(plain[:_MENTIONS_IN]) if len(plain) <= _MENTIONS_IN else set()


def _numbers(text: str) -> set[str]:
    return {_decimal(found[0]) for found in _NUMBER.finditer(text)}


def _decimal(text: str) -> str:
    """Write a number in one way; without exponent, needless zeros and plus."""
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.casefold().lstrip("+-").replace(",", "").partition("e")
    whole, _, part = mantissa.partition(".")
    shift = int(exponent or 0)
    if len(whole) + len(part) > _DIGITS or abs(shift) > _DIGITS:
        return _NO_OPTION
    digits = whole + part
    place = len(whole) + shift
    digits = "0" * -place + digits if place < 0 else digits.ljust(place, "0")
    place = max(place, 0)
    whole, part = digits[:place].lstrip("0") or "0", digits[place:].rstrip("0")
    number = f"{whole}.{part}" if part else whole
    return number if number == "0" else sign + number


def extract_choice(
    text: str, choices: tuple[Choice, ...], labels: Sequence[str] = ascii_uppercase
) -> Answer:
    """Read the id of a choice from its label as shown, or from its text.

    Args:
        text: The generated text.
        choices: The options in the order in which they were shown.
        labels: How they were labelled: letters, unless `render` shows others.

    Returns:
        The id of the choice; `invalid` if no option is named, or several are.

    Example:
        >>> shown = (Choice("x", "red"), Choice("y", "blue"))
        >>> extract_choice("B.", shown).value, extract_choice("Red", shown).value
        ('y', 'x')
        >>> extract_choice("A or B", shown).status
        <AnswerStatus.INVALID: 'invalid'>
    """
    return _decided(text, AnswerKind.CHOICE, _Options(choices, labels).read)


# What a label may be followed by: the end, a closing mark, or a word that cannot follow "a".
_AFTER = re.compile(
    r"""\s?[)\]}>:;!?\n。、](?!\d) | ['.](?![\w'.]) | ,(?!\d) | \s?[-–—]\s | \s?$ | /
    | \s(?:because|since|as|not|but|or|and)\b
    | \sis\s(?:the\s)?(?:most\s|only\s)?(?:correct|right|best|true)\b
    | 选项|是正确|正确""",
    re.VERBOSE,
)
_LABEL = r"(?P<label>[^\W_\u4e00-\u9fff]{1,3})(?![^\W\u4e00-\u9fff])"
_NAMED = _LABEL.replace("label", "named")
_LEADING = re.compile(rf"[\s(\[{{<']*(?:(?:option|choice|letter)\s?[(\[{{<']?)?{_LABEL}", re.I)
_ANOTHER = re.compile(
    rf"[\s)\]}}>.,:;'。、]{{0,4}}(?:\b(?:or|and)\b|/|&|或|和)?[\s(\[{{<']{{0,3}}{_LABEL}"
    r"(?=\s?[)\].}>,:;/\n。、]|\s?$|\s(?:or|and)\b)",
    re.IGNORECASE,
)
_JOINED = re.compile(r"[\s)\]}>.,']{0,4}\b(?:or|and)\b", re.IGNORECASE)
_MENTIONED = re.compile(
    rf"(?<!not )(?<!n't )(?:[(\[]{_LABEL}[)\]]|\b(?:option|choice|letter)\s{_NAMED})"
    r"(?!\s(?:is|are|was)\s(?:not|in|wrong|false|un))",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    rf"(?<![\w'-])\(?{_LABEL}\)?\sis\s(?:the\s)?(?:most\s|only\s)?(?:correct|right|best)\b"
)
_NOT = "".join(
    f"(?<!{before})"
    for before in (
        *("not ", "not a ", "not an ", "not the ", "n't ", "n't a ", "n't an ", "n't the "),
        *("than ", "instead of ", "neither ", "nor ", "except "),
    )
)


class _Options:
    """The options of one question, and what of them a text names."""

    def __init__(self, choices: tuple[Choice, ...], labels: Sequence[str]) -> None:
        self._ids = dict(zip(labels, (choice.id for choice in choices), strict=False))
        self._texts = [(choice.id, _cased_key(choice.text)) for choice in choices]
        self._own: dict[str, set[str]] = {}
        for identity, text in self._texts:
            self._own.setdefault(text.casefold(), set()).add(identity)

    def read(self, plain: str) -> set[str]:
        """Return the ids of the options that a text names as its answer."""
        if found := self._whole(plain):
            return found
        plain = self._without_list(plain)
        for behind in _declared(plain):
            if found := self._stated(behind):
                return found
        if found := self._leading(plain, declared=False):
            return found
        correct = {
            self._ids[m["label"]] for m in _CORRECT.finditer(plain) if m["label"] in self._ids
        }
        if correct:
            return correct
        places = [cue.end() for cue in _WEAK_CUE.finditer(plain)][-_CUES:]
        for place in reversed(places):
            if found := self._whole(_sentence(plain[place : place + _REACH].lstrip())):
                return found
        return self._mentioned(plain) if len(plain) <= _MENTIONS_IN else set()

    def _whole(self, fragment: str) -> set[str]:
        """Read a text that is nothing but a label or the text of an option."""
        if len(fragment) > _REACH and len(fragment) > max(map(len, self._own), default=0) + 20:
            return set()
        named = fragment.strip(_EDGE)
        for word in ("option ", "choice ", "letter "):
            if named[: len(word)].casefold() == word:
                named = named[len(word) :].strip(_EDGE)
        if named in self._ids:
            return {self._ids[named]}
        key = _cased_key(fragment)
        if exact := {identity for identity, text in self._texts if text == key and key}:
            found = exact
        else:
            found = set(self._own.get(key.casefold(), ())) if key else set()
        if (other := self._ids.get(named.upper())) is not None:
            found.add(other)
        if not found and self._is_letter(named):
            return {_NO_OPTION}
        return found

    def _is_letter(self, named: str) -> bool:
        """Whether this looks like the label of an option that there is not."""
        return len(named) == 1 and named.isascii() and named.isupper() and "A" in self._ids

    def _stated(self, behind: str) -> set[str]:
        """Read what stands behind a cue."""
        line = behind.partition("\n")[0]
        sentence = _sentence(behind)
        return (
            self._whole(line)
            or self._leading(behind, declared=True)
            or self._whole(sentence)
            or self._texts_in(sentence)
        )

    def _leading(self, text: str, *, declared: bool) -> set[str]:
        """Read the label that a text begins with."""
        found = _LEADING.match(text)
        if not found:
            return set()
        label, rest = found["label"], text[found.end() :]
        lower = label not in self._ids
        if lower and label.upper() not in self._ids:
            return {_NO_OPTION} if self._is_letter(label) and _closed(rest) else set()
        identity = self._ids[label.upper() if lower else label]
        line = rest.partition("\n")[0].lstrip(" )]}>.,:;-–—'")
        if identity in self._own.get(_cased_key(line[:_REACH]).casefold(), ()):
            return {identity}
        follows = _AFTER.match(rest)
        if lower:
            follows = follows if _closed(rest) else None
        elif label == "I" and rest.startswith(","):
            follows = None
        elif declared and label not in ("A", "I") and rest.startswith(" "):
            follows = follows or _AFTER.match("")
        if not follows:
            return set()
        other = _ANOTHER.match(rest)
        if other and other["label"] in self._ids:
            return {identity, self._ids[other["label"]]}
        if _JOINED.match(rest):
            return set()
        contradicting = self._whole(line) - {_NO_OPTION}
        if rest.startswith(",") and not declared:
            contradicting |= self._labels_in(rest)
        return {identity, *contradicting}

    def _mentioned(self, plain: str) -> set[str]:
        """Return every option that a text mentions without taking it back."""
        return self._labels_in(plain) | self._texts_in(plain)

    def _labels_in(self, text: str) -> set[str]:
        names = [m["label"] or m["named"] for m in _MENTIONED.finditer(text[:_MENTIONS_IN])]
        return {self._ids[name] for name in names if name in self._ids}

    def _texts_in(self, text: str) -> set[str]:
        text, found = text.casefold(), set()
        # A text that contains another one goes first, and is then gone.
        for key in sorted(self._own, key=len, reverse=True):
            if not key or (len(key) == 1 and key.isalpha() and key.isascii()):
                continue
            whole = rf"(?<![\w-])(?<!\d[.,]){re.escape(key)}(?!\w|[.,]\d)"
            if re.search(_NOT + whole, text):
                found |= self._own[key]
            text = re.sub(whole, "\n", text)
        return found

    def _without_list(self, plain: str) -> str:
        """Leave out the options themselves, where a text repeats two or more as they were shown."""
        shown = []
        for label, (_, text) in zip(self._ids, self._texts, strict=False):
            for form in (
                f"{label}. {text}",
                f"({label}) {text}",
                f"{label}) {text}",
                f"{label}: {text}",
            ):
                place = plain.find(form) if text else -1
                if place >= 0:
                    shown.append((place, len(form)))
                    break
        if len(shown) < 2:
            return plain
        for place, length in sorted(shown, reverse=True):
            plain = plain[:place] + "\n" + plain[place + length :]
        return plain.lstrip(_EDGE)


def _closed(rest: str) -> bool:
    """Whether a label is set apart from what follows it."""
    return not rest.strip() or (rest.lstrip(" ")[0] in ")]}>:.\n" and not rest[1:2].isalnum())


def _cased_key(text: str) -> str:
    """A text of an option as it is compared, but for its case."""
    plain = " ".join(_plain(text).split())
    stripped = plain.strip(" .,;:!?'") or plain
    article = _ARTICLE.match(stripped.casefold())
    return stripped[article.end() :] if article else stripped
