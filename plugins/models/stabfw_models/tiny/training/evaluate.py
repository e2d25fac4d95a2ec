"""Measure exported models with ``generate`` and write the tables of ``accuracy.md``.

``python -m stabfw_models.tiny.training.evaluate --model NAME DIR [DIR ...]`` takes one folder per
training seed and prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from stabfw.components import GenerationOptions, Image, Prompt
from stabfw_benchmarks.shapes import scenes

from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from stabfw_models.tiny.training import data
from stabfw_models.tiny.training.architectures import ARCHITECTURES, SQUARE, Pixels

EASY_RANGE: Final = (0.0, 0.2)
DEFAULT_RANGE: Final = (0.8, 1.2)
HARD_RANGE: Final = (1.1, 1.2)
_NEUTRAL_GRAY: Final = 127
_ANSWER_TOKENS: Final = 6
_DESCRIPTION_TOKENS: Final = 24
_BATCH: Final = 32


@dataclass(frozen=True)
class Instance:
    """One image, one prompt (choices included) and the expected answer."""

    kind: str
    pixels: Pixels
    prompt: str
    answer: str
    difficulty: float | None = None


@dataclass(frozen=True)
class Tally:
    """Correct answers out of ``total``."""

    correct: int
    total: int

    @property
    def percent(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct / self.total


class Answerer:
    """A model loaded as a user would load it, answering greedily in fp32.

    Attributes:
        model: The loaded model.
    """

    def __init__(self, folder: Path) -> None:
        model = HfVlm(HfVlmConfig(source=str(folder), dtype="float32", device="cpu", threads=1))
        self._open = ExitStack()
        self.model = self._open.enter_context(model.open(model.request()))

    def answer(self, instances: Sequence[Instance]) -> list[str]:
        """Answer all instances, in order."""
        answers = [""] * len(instances)
        # Descriptions are several times longer; together they would slow down every batch.
        order = sorted(range(len(instances)), key=lambda i: instances[i].kind == "describe")
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            texts = self._generate([instances[i] for i in batch])
            for i, text in zip(batch, texts, strict=True):
                answers[i] = text
        return answers

    def _generate(self, batch: Sequence[Instance]) -> list[str]:
        prompts = [
            Prompt(str(number), (Image.from_pixels(instance.pixels),), instance.prompt)
            for number, instance in enumerate(batch)
        ]
        longest = any(instance.kind == "describe" for instance in batch)
        options = GenerationOptions(_DESCRIPTION_TOKENS if longest else _ANSWER_TOKENS)
        predictions = self.model.generate(self.model.encode(prompts), options)
        return [prediction.text for prediction in predictions]


def scene_instances(
    split: str,
    images: int,
    difficulty: tuple[float, float],
    per_image: int = 6,
    kinds: Sequence[str] = scenes.KINDS,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] = (SQUARE,),
) -> list[Instance]:
    """Ask ``per_image`` questions on each of the first ``images`` scenes of a split."""
    instances = []
    for index in range(images):
        size = sizes[index % len(sizes)]
        scene = scenes.generate(split, index, seed, *difficulty, size)
        for question in scenes.questions(scene, per_image, kinds):
            turn = data.scene_turn(question, suffix=False)
            instances.append(
                Instance(turn.kind, scene.pixels, turn.prompt, turn.answer, scene.difficulty)
            )
    return instances


def easy_vqa_instances(images: int) -> list[Instance]:
    """All questions on the first ``images`` images of the easy-VQA test split."""
    easy = data.load_easy_vqa("test")
    return [
        Instance(turn.kind, easy.images[image_id], turn.prompt, turn.answer)
        for image_id in sorted(easy.turns)[:images]
        for turn in easy.turns[image_id]
    ]


def without_image(instances: Sequence[Instance]) -> list[Instance]:
    """Replace every image by a uniform mid-grey one."""
    return [replace(item, pixels=np.full_like(item.pixels, _NEUTRAL_GRAY)) for item in instances]


def tally(instances: Sequence[Instance], answers: Sequence[str]) -> dict[str, Tally]:
    """Count exact matches by kind, and over ``"all"``."""
    counts: dict[str, Tally] = {}
    for instance, answer in zip(instances, answers, strict=True):
        for kind in (instance.kind, "all"):
            before = counts.get(kind, Tally(0, 0))
            counts[kind] = Tally(before.correct + (answer == instance.answer), before.total + 1)
    return counts


def report(
    folders: Sequence[Path],
    images: int,
    split: str,
    easy_images: int,
    sizes: Sequence[tuple[int, int]] = (),
) -> str:
    """Evaluate all folders and format one Markdown table per data set.

    Args:
        folders: Exported models, one per training seed.
        images: Scenes per range of difficulties.
        split: Their split.
        easy_images: Pictures of easy-VQA.
        sizes: Sizes beyond the square one, for models that take them.
    """
    answerers = [Answerer(folder) for folder in folders]
    ranges = {"easy": EASY_RANGE, "default": DEFAULT_RANGE, "hard": HARD_RANGE}
    columns: dict[str, list[dict[str, Tally]]] = {}
    for name, difficulty in ranges.items():
        instances = scene_instances(split, images, difficulty)
        title = f"{name} ({difficulty[0]:g}–{difficulty[1]:g})"
        columns[title] = _measure(answerers, instances)
        if name == "default":
            columns["default, image removed"] = _measure(answerers, without_image(instances))
    if sizes:
        instances = scene_instances(split, images, DEFAULT_RANGE, sizes=sizes)
        columns["default, other sizes"] = _measure(answerers, instances)
    easy = easy_vqa_instances(easy_images)
    easy_columns = {
        "easy-VQA": _measure(answerers, easy),
        "image removed": _measure(answerers, without_image(easy)),
    }
    easy_kinds = sorted({instance.kind for instance in easy})
    return "\n\n".join([_table(columns, scenes.KINDS), _table(easy_columns, easy_kinds)])


def _measure(
    answerers: Sequence[Answerer], instances: Sequence[Instance]
) -> list[dict[str, Tally]]:
    return [tally(instances, answerer.answer(instances)) for answerer in answerers]


def _table(columns: Mapping[str, Sequence[Mapping[str, Tally]]], kinds: Sequence[str]) -> str:
    """One row per kind; a cell holds the accuracy of every model and the number of instances."""
    lines = ["| kind | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for kind in [*kinds, "all"]:
        cells = []
        for models in columns.values():
            tallies = [by_kind[kind] for by_kind in models if kind in by_kind]
            accuracies = " / ".join(f"{item.percent:.1f}" for item in tallies)
            cells.append(f"{accuracies} ({tallies[0].total})" if tallies else "–")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables for the folders on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="tiny-llava")
    parser.add_argument("folders", type=Path, nargs="+", help="exported models, one per seed")
    parser.add_argument("--images", type=int, default=300, help="scenes per difficulty range")
    parser.add_argument("--easy-vqa-images", type=int, default=200)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    options = parser.parse_args()
    sizes = [size for size in ARCHITECTURES[options.model].sizes if size != SQUARE]
    print(report(options.folders, options.images, options.split, options.easy_vqa_images, sizes))


if __name__ == "__main__":
    main()
