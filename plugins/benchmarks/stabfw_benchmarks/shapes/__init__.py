"""`shapes`: generated scenes of coloured shapes, with a difficulty dial.

It demonstrates the tool together with the tiny models; it says nothing about real models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from stabfw.components import (
    AnswerKind,
    Benchmark,
    BenchmarkConfig,
    Choice,
    Image,
    Instance,
)
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw_benchmarks.shapes.scenes import Question, Scene

ShapesKind = Literal[
    "exist",
    "color",
    "shape",
    "count",
    "position",
    "largest",
    "mc_color",
    "mc_shape",
    "mc_count",
    "describe",
]
MAX_DIFFICULTY = 1.2
Side = Annotated[int, Field(ge=32, le=512)]
_BIN = 0.1


class ShapesConfig(BenchmarkConfig):
    """Generated scenes; the same config always gives the same questions."""

    limit: int = Field(1200, ge=1, description="Number of questions.")
    seed: int = Field(0, ge=0, description="Seed of the scenes.")
    per_image: int = Field(3, ge=1, le=10, description="Questions about one picture, at most.")
    kinds: tuple[ShapesKind, ...] = Field(
        ("exist", "color", "shape", "count", "mc_color", "mc_shape", "mc_count"),
        min_length=1,
        description="Kinds of questions.",
    )
    easiest: float = Field(
        0.8, ge=0, le=MAX_DIFFICULTY, description="Lowest difficulty of a scene."
    )
    hardest: float = Field(
        MAX_DIFFICULTY,
        ge=0,
        le=MAX_DIFFICULTY,
        description="Highest difficulty of a scene; the tiny models were trained on 0 to 1.2.",
    )
    sizes: tuple[tuple[Side, Side], ...] = Field(
        ((64, 64),),
        min_length=1,
        description="Widths and heights of the scenes, in pixels, taken in turn.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ShapesConfig:
        if self.easiest > self.hardest:
            raise ValueError(f"easiest ({self.easiest}) exceeds hardest ({self.hardest})")
        return self


class Shapes(Benchmark[ShapesConfig]):
    """Questions about generated scenes; several share a picture, which makes them a cluster."""

    config_cls = ShapesConfig
    splits = ("test", "validation", "train")

    def fingerprint(self) -> Mapping[str, object]:
        """Nothing outside the config decides the questions."""
        return {}

    def instances(self, split: str) -> Iterator[Instance]:
        """Generate scenes until there are enough questions."""
        from stabfw_benchmarks.shapes import scenes

        config = self.config
        produced, index = 0, 0
        while produced < config.limit:
            size = config.sizes[index % len(config.sizes)]
            scene = scenes.generate(split, index, config.seed, config.easiest, config.hardest, size)
            image = Image.from_pixels(scene.pixels)
            for number, question in enumerate(
                scenes.questions(scene, config.per_image, config.kinds)
            ):
                if produced == config.limit:
                    return
                yield _instance(scene, question, image, f"{index}/{number}")
                produced += 1
            index += 1


def _instance(scene: Scene, question: Question, image: Image, native_id: str) -> Instance:
    step = min(int(scene.difficulty / _BIN), round(MAX_DIFFICULTY / _BIN) - 1)
    low, high = step * _BIN, (step + 1) * _BIN
    return Instance.create(
        (image,),
        question.text,
        native_id=native_id,
        kind=_answer_kind(question),
        # An option's id is its letter in the original order, which the gold answer names.
        choices=tuple(Choice("ABCD"[place], text) for place, text in enumerate(question.choices)),
        references=(question.answer,),
        slices={"kind": question.kind, "difficulty": f"{low:.1f}–{high:.1f}"},
    )


def _answer_kind(question: Question) -> AnswerKind:
    if question.choices:
        return AnswerKind.CHOICE
    return {"exist": AnswerKind.YES_NO, "describe": AnswerKind.FREE}.get(
        question.kind, AnswerKind.SHORT
    )


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmark."""
    register("shapes", Shapes)
