"""Perturbation `typos`: slips of the keyboard in the words of a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from stabfw.components import AnswerKind, Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

from stabfw_perturbations.typos.slips import misspell

if TYPE_CHECKING:
    import numpy as np


class TyposConfig(PerturbationConfig):
    """Config of `typos`."""

    rate: float = Field(default=0.2, ge=0, le=1, description="Share of words that get one typo.")


class Typos(Perturbation[TyposConfig]):
    """Puts one typo into some words: a wrong key, letters swapped, one lost, one doubled.

    Only the words of the question are touched. Options (also such as stand in the question as
    lines `A. ...`), the hint, words with digits, words of one letter and special tokens such as
    `<image>` stay as they are. With one generator state, a higher rate changes the same words as
    a lower one and more. A typo can make another word of the one that is asked for ("cat", "car"),
    so no label holds; where it cannot, a spec may say `gold_holds: true`.
    """

    config_cls: ClassVar[type[TyposConfig]] = TyposConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with typos in its question."""
        if self.config.rate == 0:
            return instance
        return replace(instance, question=misspell(instance.question, self.config.rate, rng))

    def preserves_label(self, kind: AnswerKind) -> bool:
        """Only at rate 0."""
        return self.config.rate == 0


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `typos`."""
    register("typos", Typos)
