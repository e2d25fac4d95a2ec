"""Perturbations `shuffle-options` and `option-labels`: how options are listed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    import numpy as np

#: Options that speak of others, whose place therefore matters.
_OF_OTHERS = re.compile(
    r"\b(?i:above|below|preceding|following options|these options)\b"
    r"|\b(?i:both|neither|either|only|all|options?|answers?)\b[^.]*\b[A-H]\b"
    r"|\b[A-H] (?:and|or|&) [A-H]\b"
)


class ShuffleOptionsConfig(PerturbationConfig):
    """Config of `shuffle-options`, which has no parameters."""


class ShuffleOptions(Perturbation[ShuffleOptionsConfig]):
    """Lists the options of a question in another order, drawn at random, never the same.

    Answers are ids of options, which keep their texts; a letter is read as the option that was
    shown there. Where an option speaks of others ("all of the above", "both A and B"), and where a
    question holds its options in its own text, nothing changes.
    """

    config_cls: ClassVar[type[ShuffleOptionsConfig]] = ShuffleOptionsConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with its options in another order."""
        choices = instance.choices
        if len(choices) < 2 or any(_OF_OTHERS.search(choice.text) for choice in choices):
            return instance
        order = list(range(len(choices)))
        while order == sorted(order):
            order = rng.permutation(len(choices)).tolist()
        return replace(instance, choices=tuple(choices[place] for place in order))


class OptionLabelsConfig(PerturbationConfig):
    """Config of `option-labels`."""

    style: Literal["A)", "(A)", "A:", "a)", "(a)"] = Field(
        default="(A)", description="How the first option is labelled; usual is `A.`."
    )


class OptionLabels(Perturbation[OptionLabelsConfig]):
    """Labels options in another style than `A.`; a letter means the option behind it as before."""

    config_cls: ClassVar[type[OptionLabelsConfig]] = OptionLabelsConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with its options in the style; `rng` is not used."""
        if not instance.choices:
            return instance
        return replace(instance, option_style=self.config.style)


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `shuffle-options` and `option-labels`."""
    register("shuffle-options", ShuffleOptions)
    register("option-labels", OptionLabels)
