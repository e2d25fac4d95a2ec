"""Contract of a benchmark: questions, how they are put, how answers are read and scored."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from stabfw.components.base import Component, ComponentConfig
from stabfw.components.data import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Instance,
    Option,
    Outline,
    Prompt,
    Score,
)
from stabfw.components.extract import extract_choice, extract_text, extract_yes_no
from stabfw.components.judging import Rubric


class BenchmarkConfig(ComponentConfig):
    """What every benchmark lets a user choose."""

    name: str | None = Field(
        default=None, description="Name in results; type and parameters by default."
    )
    split: str | None = Field(
        default=None, description="Split to evaluate; the first one by default."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Use only this many instances, the first of the split."
    )


class SampledConfig(BenchmarkConfig):
    """The same, where `limit` draws its instances at random."""

    limit: int | None = Field(
        default=None, ge=1, description="Use only this many instances, see sample_seed."
    )
    sample_seed: int | None = Field(
        default=0, description="Draw `limit` questions at random with this seed; null: the first."
    )

    def order(self, count: int, name: str) -> Sequence[int]:
        """In which order to read `count` instances until there are `limit`.

        Args:
            count: Number of instances there are.
            name: Of the data set, so that two do not share their random numbers.

        Returns:
            The places 0 … count - 1, drawn at random if a limit has to draw.
        """
        places = list(range(count))
        if self.limit is not None and self.sample_seed is not None:
            random.Random(f"{name} {self.sample_seed}").shuffle(places)
        return places


@dataclass(frozen=True)
class Graded:
    """A question that was answered and scored, as an aggregate needs it.

    Attributes:
        group_id: Instances with the same value are scored together; empty where there is none.
        slices: The names under which its results are broken down.
        kind: How the answer looks.
        references: Gold answers.
        answer: What was read.
        score: What that is worth.
    """

    group_id: str
    slices: Mapping[str, str]
    kind: AnswerKind
    references: tuple[str, ...]
    answer: Answer
    score: Score


B = TypeVar("B", bound=BenchmarkConfig)


class Benchmark(Component[B]):
    """Questions with gold answers. Every method is a pure function of config and arguments.

    Override `fingerprint` to name all content outside the config (hashes of the data files, `{}`
    if there is none): what a benchmark holds is then kept, and a finished experiment need not
    load it again. Without it the data is loaded every time.

    Attributes:
        splits: Names that `instances` accepts, the one evaluated by default first.
        same_pictures: Splits that hold other questions about the same pictures, and so are never
            calibrated on for one another.
        scorer_version: Raise it when the same text is read, scored or aggregated differently than
            before, the replies of a judge included. Scores are then made anew; predictions stay.
        judged: How a judge scores answers, for a benchmark whose answers no rule can score. It then
            has to be named in the spec, and its score takes the place of that of `score`.
    """

    splits: ClassVar[tuple[str, ...]] = ("test",)
    same_pictures: ClassVar[frozenset[str]] = frozenset()
    scorer_version: ClassVar[int] = 1
    judged: ClassVar[Rubric | None] = None

    @classmethod
    def suggest(cls, data: Path) -> Mapping[str, Any] | None:
        """Propose a config for a user's own data, which `stabfw init --data` writes into a spec.

        The default is None: the benchmark brings its own data.

        Args:
            data: A file or directory, as the user named it.

        Raises:
            DataError: If the data is missing, or more has to be said about it.
        """
        return None

    @property
    def private(self) -> bool:
        """Whether pictures stay out of reports and tracking, whatever `tracking.images` says."""
        return False

    @property
    def representative(self) -> bool:
        """Whether a rate over its questions estimates anything.

        Not where they were chosen by how they were answered; no gate judges such a set.
        """
        return True

    @abstractmethod
    def instances(self, split: str) -> Iterable[Instance]:
        """Yield the instances of a split in a fixed order, `config.limit` at the most.

        Raises:
            DataError: If the data is missing or not in the expected form.
        """

    def outline(self, split: str) -> Outline | None:
        """Tell how much a split holds where that is known without its data, for planning.

        The default is None: the data has to be there.
        """
        return None

    def render(self, instance: Instance) -> str:
        """Return the user message for an instance, which may have been perturbed.

        The default is the question, then the options as lettered lines in the order shown.
        """
        lines = [instance.hint] if instance.hint else []
        return "\n".join([*lines, instance.question, *option_lines(instance)])

    def prompt(self, instance: Instance) -> Prompt:
        """Return what a model is asked."""
        return Prompt(instance.id, instance.images, self.render(instance), self.options(instance))

    def options(self, instance: Instance) -> tuple[Option, ...]:
        """Return the answers that an instance lets one choose from; none where it is free.

        `extract` must read each of their texts as the option's id. The default is the letters
        that `render` shows, or yes and no.
        """
        if instance.kind is AnswerKind.YES_NO:
            return Option("yes", ("Yes", "yes")), Option("no", ("No", "no"))
        shown = zip(_letters(instance), instance.choices, strict=True)
        return tuple(Option(choice.id, (letter,)) for letter, choice in shown)

    def extract(self, text: str, instance: Instance) -> Answer:
        """Read the answer out of generated text. Never guess: what cannot be read is `invalid`.

        The default reads yes or no, an option or a text, as the instance's kind demands.
        `instance` is the perturbed one, so letters can be mapped back to choice ids.
        """
        if instance.kind is AnswerKind.YES_NO:
            return extract_yes_no(text)
        if instance.kind is AnswerKind.CHOICE:
            return extract_choice(text, instance.choices)
        return extract_text(text, instance.kind)

    def score(self, answer: Answer, instance: Instance) -> Score:
        """Score an answer against the references; the default is equality with any of them."""
        correct = answer.status is AnswerStatus.OK and answer.value in instance.references
        return Score(float(correct), correct)

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Return the numbers that the benchmark's authors report besides accuracy, by name.

        They depend neither on the order of `graded` nor on anything else, and none becomes better
        when right answers are taken away. With `limit`, `graded` is a part of the split only, and
        may hold a part of a group. The default is none.

        Args:
            graded: All questions that could be asked; never empty.
        """
        return {}


def option_lines(instance: Instance) -> list[str]:
    """The options in the order shown, each behind its letter in the instance's style.

    Example:
        >>> from stabfw.components import Choice, Instance
        >>> item = Instance("q", (), "Which?", choices=(Choice("x", "red"),), option_style="(a)")
        >>> option_lines(item)
        ['(a) red']
    """
    style = instance.option_style
    shown = zip(_letters(instance), instance.choices, strict=True)
    return [f"{re.sub('[Aa]', letter, style)} {choice.text}" for letter, choice in shown]


def _letters(instance: Instance) -> str:
    letters = ascii_lowercase if "a" in instance.option_style else ascii_uppercase
    return letters[: len(instance.choices)]
