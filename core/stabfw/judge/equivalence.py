"""Whether two answers mean the same, asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from typing import ClassVar

from stabfw.components import Instance, Rubric, Verdict, read_yes_no

#: Raise it when replies are read differently; a changed question is asked anew by itself.
VERSION = 1


@dataclass(frozen=True)
class SameAnswer(Rubric):
    """Holds an answer against another one; they are equivalent only if both orders say so.

    Attributes:
        other: The other answer, the baseline's.
    """

    orders: ClassVar[int] = 2
    other: str

    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        """Ask whether both mean the same, the other answer first and then second."""
        pairs = (self.other, answer), (answer, self.other)
        return tuple(
            _template().substitute(question=instance.question, first=first, second=second)
            for first, second in pairs
        )

    def read(self, reply: str, order: int) -> Verdict | None:
        """Read yes as 1 and no as 0."""
        same = read_yes_no(reply)
        return None if same is None else (float(same),)

    def score(self, verdicts: Sequence[Verdict]) -> float:
        """1 if every order says yes, else 0."""
        return min(value for (value,) in verdicts)


@cache
def _template() -> Template:
    return Template(files("stabfw.judge").joinpath("same_answer.txt").read_text("utf-8").strip())
