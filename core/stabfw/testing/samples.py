"""Questions on simple pictures to try plugins on; no data set and no network is needed."""

from __future__ import annotations

from functools import cache

from stabfw.components import (
    AnswerKind,
    Choice,
    Example,
    FitData,
    Image,
    Instance,
    Prompt,
)

_COLOURS = ((220, 40, 40), (40, 160, 60), (50, 70, 210), (230, 200, 40))
_OPTIONS = (Choice("A", "red"), Choice("B", "green"), Choice("C", "blue"), Choice("D", "yellow"))


def instances() -> tuple[Instance, ...]:
    """Fresh instances of every kind: with hints and options, with no picture, one and two."""
    return (
        Instance.create(
            (_picture(0, 64, 64),),
            "Is there a red rectangle in the middle of this picture?",
            native_id=0,
            kind=AnswerKind.YES_NO,
            references=("yes",),
            slices={"kind": "exist"},
        ),
        Instance.create(
            (_picture(1, 48, 80),),
            "Which colour does the largest rectangle have?",
            native_id=1,
            kind=AnswerKind.CHOICE,
            choices=_OPTIONS,
            references=("B",),
            group_id="colours",
        ),
        Instance.create(
            (_picture(2, 90, 60),),
            "How many of the 3 rectangles lie to the left of the centre?",
            native_id=2,
            references=("1", "one"),
            hint="Rectangles on the line count.",
        ),
        Instance.create(
            (_picture(3, 64, 64), _picture(4, 40, 40)),
            "Describe what both pictures have in common, in a few words.",
            native_id=3,
            kind=AnswerKind.FREE,
            references=("a rectangle",),
            cluster_id="pair",
        ),
        Instance.create(
            (),
            "What is the usual name of a polygon that has four equal sides?",
            native_id=4,
            references=("square",),
        ),
    )


@cache
def prompts() -> tuple[Prompt, ...]:
    """Eight prompts with one picture each and texts of very different lengths."""
    texts = (
        "What color is the rectangle?",
        "How many rectangles are there in this picture?",
        "Color?",
        "Is there a blue rectangle to the left of the red one?",
        "What is the color of the largest shape?\nA. red\nB. green\nC. blue\nD. yellow",
        "Describe the picture.",
        "Is there a circle?",
        "Which shape is it? Look at the whole picture before you answer, and give one word only.",
    )
    return tuple(
        Prompt(f"sample-{number}", (_picture(number, 64, 64),), text)
        for number, text in enumerate(texts)
    )


@cache
def fit_data() -> FitData:
    """The prompts of `prompts`, with an answer each."""
    answers = ("red", "1", "green", "no", "A", "a rectangle", "no", "rectangle")
    return FitData(tuple(map(Example, prompts(), answers)))


def _picture(number: int, height: int, width: int) -> Image:
    import numpy as np

    pixels = np.random.default_rng(number).integers(190, 256, (height, width, 3), dtype=np.uint8)
    top, left = height // 4, width // (3 + number % 3)
    pixels[top : top + height // 2, left : left + width // 2] = _COLOURS[number % len(_COLOURS)]
    return Image.from_pixels(pixels)
