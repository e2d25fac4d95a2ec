"""Perturbations `case`, `punctuation`, `whitespace` and `paraphrase`: the same, put otherwise."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator
from stabfw.components import Instance, Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl

from stabfw_perturbations.wording.methods import change_case, change_marks, change_spaces

if TYPE_CHECKING:
    import numpy as np

_TEMPLATES = Path(__file__).parent / "templates.toml"


class CaseConfig(PerturbationConfig):
    """Config of `case`."""

    style: Literal["lower", "upper", "title", "mixed"] = Field(
        default="lower", description="How words are written; mixed: each letter at random."
    )
    rate: float = Field(default=1.0, ge=0, le=1, description="Share of words that are rewritten.")


class Case(Perturbation[CaseConfig]):
    """Writes words of the question in lower, upper, title or mixed case.

    Options, the hint, words with digits and special tokens stay as they are.
    """

    config_cls: ClassVar[type[CaseConfig]] = CaseConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with words of its question rewritten."""
        changed = change_case(instance.question, self.config.style, self.config.rate, rng)
        return replace(instance, question=changed)


class PunctuationConfig(PerturbationConfig):
    """Config of `punctuation`."""

    style: Literal["drop", "repeat"] = Field(
        default="drop", description="Marks are left out, or written three times."
    )
    rate: float = Field(default=1.0, ge=0, le=1, description="Share of marks that are changed.")


class Punctuation(Perturbation[PunctuationConfig]):
    """Leaves out or repeats the marks behind words of the question (`. , ; : ! ?`).

    Options, the hint and marks within words and numbers stay as they are.
    """

    config_cls: ClassVar[type[PunctuationConfig]] = PunctuationConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with marks of its question changed."""
        changed = change_marks(instance.question, self.config.style, self.config.rate, rng)
        return replace(instance, question=changed)


class WhitespaceConfig(PerturbationConfig):
    """Config of `whitespace`."""

    rate: float = Field(default=0.5, ge=0, le=1, description="Share of gaps that get wider.")


class Whitespace(Perturbation[WhitespaceConfig]):
    """Widens gaps between words of the question to two or three spaces; options stay."""

    config_cls: ClassVar[type[WhitespaceConfig]] = WhitespaceConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with wider gaps in its question."""
        changed = change_spaces(instance.question, self.config.rate, rng)
        return replace(instance, question=changed)


@cache
def templates() -> Mapping[str, str]:
    """The ways to put a question, by name; `{question}` stands for it."""
    found: Mapping[str, str] = tomllib.loads(_TEMPLATES.read_text())["templates"]
    return found


class ParaphraseConfig(PerturbationConfig):
    """Config of `paraphrase`."""

    template: str | None = Field(
        default=None, description="Name of the template; null: another for each question."
    )

    @field_validator("template")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in templates():
            raise ValueError(f"there is no template {name!r}; there are {', '.join(templates())}")
        return name


class Paraphrase(Perturbation[ParaphraseConfig]):
    """Puts a question about a picture into other words around it; its own words stay.

    The templates lie in `wording/templates.toml`, whose version and content enter the key. What a
    benchmark adds behind the question (how to answer) stays. Questions without pictures stay.
    """

    config_cls: ClassVar[type[ParaphraseConfig]] = ParaphraseConfig
    modality: ClassVar[Modality] = Modality.TEXT

    def fingerprint(self) -> Mapping[str, Any]:
        """Version and hash of the file of templates."""
        data = _TEMPLATES.read_bytes()
        version = tomllib.loads(data.decode())["version"]
        return {"version": version, "sha256": hashlib.sha256(data).hexdigest()}

    def perturb(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Return the instance with its question in a template."""
        if not instance.images:
            return instance
        name = self.config.template or list(templates())[int(rng.integers(len(templates())))]
        asked = templates()[name].replace("{question}", instance.question)
        return replace(instance, question=asked)


@hookimpl
def stabfw_register_perturbations(
    register: Callable[[str, type[Perturbation[Any]]], None],
) -> None:
    """Offer `case`, `punctuation`, `whitespace` and `paraphrase`."""
    register("case", Case)
    register("punctuation", Punctuation)
    register("whitespace", Whitespace)
    register("paraphrase", Paraphrase)
