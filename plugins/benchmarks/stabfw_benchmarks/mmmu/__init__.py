"""`mmmu`: questions of college exams (Yue et al., 2023, arXiv 2311.16502)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from stabfw.components import Answer, AnswerKind, Benchmark, Instance, Outline, normalised
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import LETTER, SHORT, HubBenchmark, Split, choices

_MARK = re.compile(r"<image (\d)>")


class Mmmu(HubBenchmark):
    """MMMU, the validation split. Pictures come first; the text refers to them by number.

    An open question is right if its answer is one of the references, up to case and white space,
    or the same number. The paper's rules also accept a reference inside a longer answer and
    guess an option where none can be read; nothing is guessed here.
    """

    hub_id = "lmms-lab/MMMU"
    hub_splits: ClassVar[Mapping[str, Split]] = {"validation": Split("validation", 900)}
    columns = ("id", "question", "options", "answer", "question_type", "image_1", "subfield")
    typical = Outline(0, ((640, 480),), 120)

    def instance(self, row: Mapping[str, Any], number: int) -> Instance:
        """Read a row; only pictures that the text mentions are shown, in its order."""
        options = [str(option) for option in _literal(row["options"], self.hub_id, row["id"])]
        chosen = row["question_type"] == "multiple-choice"
        shown = dict.fromkeys(_MARK.findall(" ".join([row["question"], *options]))) or {"1": None}
        places = {mark: place for place, mark in enumerate(shown, 1)}

        def numbered(text: str) -> str:
            return _MARK.sub(lambda mark: f"(picture {places[mark[1]]})", text)

        answers = [row["answer"]] if chosen else _several(row["answer"])
        return Instance.create(
            tuple(picture for mark in shown if (picture := row[f"image_{mark}"]) is not None),
            numbered(row["question"]),
            native_id=row["id"],
            kind=AnswerKind.CHOICE if chosen else AnswerKind.SHORT,
            choices=choices([numbered(option) for option in options]) if chosen else (),
            references=tuple(answers if chosen else map(_folded, answers)),
            slices={"subject": row["id"].removeprefix("validation_").rpartition("_")[0]},
        )

    def render(self, instance: Instance) -> str:
        """As all others, with the suffix that the kind of question asks for."""
        text = super().render(instance).removesuffix(self.suffix)
        return text + (LETTER if instance.kind is AnswerKind.CHOICE else SHORT)

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read an option, or a short text or number."""
        answer = super().extract(text, instance)
        if answer.value is None or instance.kind is AnswerKind.CHOICE:
            return answer
        return replace(answer, value=_folded(answer.value))


def _folded(text: str) -> str:
    """A number in plain digits, so that equal ones are equal, other text normalised."""
    value = normalised(text)
    try:
        number = Decimal(value.replace(",", "").lstrip("$"))
    except InvalidOperation:
        return value
    return f"{number.normalize():f}" if number.is_finite() else value


def _several(answer: str) -> list[str]:
    return [str(one) for one in ast.literal_eval(answer)] if answer.startswith("[") else [answer]


def _literal(text: str, where: str, number: str) -> list[Any]:
    try:
        return list(ast.literal_eval(text)) if text else []
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{where}: question {number}: its options are no list: {text!r}") from error


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("mmmu", Mmmu)
