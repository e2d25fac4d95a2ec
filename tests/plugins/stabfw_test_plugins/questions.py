"""`questions`: a benchmark read from a JSON file of [question, gold, cluster]."""

import json
from pathlib import Path

import numpy as np
from pydantic import Field
from stabfw.components import (
    AnswerKind,
    Benchmark,
    BenchmarkConfig,
    Choice,
    Image,
    Instance,
    extract_choice,
    extract_text,
    file_digest,
)
from stabfw.registry import hookimpl

CHOICES = (Choice("first", "the first one"), Choice("second", "the second one"))


class QuestionsConfig(BenchmarkConfig):
    path: Path = Field(description="JSON file with lists of [question, gold, cluster].")
    tint: int = Field(0, description="Colour of every image.")
    choices: bool = Field(False, description="Whether there are options to choose from.")
    broken: int = Field(0, ge=0, description="This many images cannot be read.")


class Questions(Benchmark[QuestionsConfig]):
    config_cls = QuestionsConfig
    splits = ("test", "train")

    def fingerprint(self):
        return {"file": file_digest(self.config.path)}

    def instances(self, split):
        rows = json.loads(self.config.path.read_text())[: self.config.limit]
        for number, (question, gold, cluster) in enumerate(rows):
            pixels = np.full((8, 8, 3), self.config.tint, np.uint8)
            pixels[0, 0] = number % 256, number // 256, 1 if split == "train" else 0
            image = Image.from_pixels(pixels)
            if number < self.config.broken:
                image = _broken(self.config.path.parent, number)
            yield Instance.create(
                (image,),
                question,
                native_id=f"{split}/{number}",
                kind=AnswerKind.CHOICE if self.config.choices else AnswerKind.SHORT,
                choices=CHOICES if self.config.choices else (),
                references=(gold,),
                cluster_id=cluster,
                slices={"half": "first" if number < len(rows) / 2 else "second"},
            )

    def extract(self, text, instance):
        if instance.choices:
            return extract_choice(text, instance.choices)
        return extract_text(text, instance.kind)


def _broken(folder: Path, number: int) -> Image:
    path = folder / f"broken-{number}.png"
    if not path.exists():
        path.write_bytes(b"\x89PNG not really" + bytes([number]))
    return Image.from_file(path)


@hookimpl
def stabfw_register_benchmarks(register):
    register("questions", Questions)
