"""Generate small scenes of coloured shapes, with questions and a continuous difficulty dial.

Every scene is a pure function of ``(split, index, seed, low, high)``: scenes can be rendered in
any order, and the splits draw from separate random streams.

One dial, ``difficulty`` in [0, 1.2], moves everything that makes a scene hard to read: the number
and the size of the objects, their overlap, how far a colour may lean towards another one, the
contrast with the background, the noise, and how close to the boundary a ``largest`` or
``position`` question may fall. Labels are true by construction at every difficulty.

The embedded model was trained up to 1; beyond lie objects smaller and pictures noisier than any
that it has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from stabfw_benchmarks.shapes import MAX_DIFFICULTY, ShapesKind

SIZE: Final = 64
"""Height and width of a scene, in pixels, unless another size is asked for."""

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
}
"""Colour names and their RGB values (the palette of easy-VQA)."""

COLORS: Final = tuple(PALETTE)
SHAPES: Final = ("circle", "rectangle", "triangle", "cross")
KINDS: Final[tuple[str, ...]] = get_args(ShapesKind)
"""Every kind of question; the ``mc_`` kinds have lettered choices."""

LETTERS: Final = "ABCD"
MAX_OBJECTS: Final = 6
_MAX_DESCRIBED: Final = 3
_SUPERSAMPLING: Final = 4
_SPLITS: Final = {"train": 1, "validation": 2, "test": 3}
_SCENE_STREAM: Final = 0
_QUESTION_STREAM: Final = 1
_PALETTE_RGB: Final = np.array(list(PALETTE.values()), dtype=np.float64)

_T = TypeVar("_T")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; lengths are in pixels, ``x`` and ``y`` are its centre."""

    shape: str
    color: str
    leaning: str
    rgb: tuple[int, int, int]
    x: float
    y: float
    half_width: float
    half_height: float

    @property
    def size(self) -> float:
        """Half the side of the square with the area of the bounding box."""
        return math.sqrt(self.half_width * self.half_height)

    @property
    def name(self) -> str:
        """Colour and shape, for example ``"red circle"``; unique within a scene."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene and the objects it shows, farthest from the viewer first."""

    split: str
    index: int
    seed: int
    difficulty: float
    objects: tuple[SceneObject, ...]
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Question:
    """A question on a scene.

    ``text`` does not contain the choices: append ``render_choices(choices)``. For the ``mc_``
    kinds ``answer`` is a letter, for all others it is the text of the answer.
    """

    kind: str
    text: str
    choices: tuple[str, ...]
    answer: str


def generate(
    split: str,
    index: int,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
    size: tuple[int, int] = (SIZE, SIZE),
) -> Scene:
    """Render scene ``index`` of a split.

    The same scene keeps its place within the range when ``low`` and ``high`` change. Objects are
    as large on a larger scene, and not more.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``; each has its own random stream.
        index: Number of the scene within the split, from 0.
        seed: Seed of the whole data set.
        low: Smallest difficulty, at least 0.
        high: Largest difficulty, at most 1.2; the scene's own is uniform in between.
        size: Width and height, in pixels.

    Raises:
        ValueError: If the split is unknown or the range is not within [0, 1.2].

    Example:
        >>> generate("test", 3).pixels.shape
        (64, 64, 3)
    """
    if not 0.0 <= low <= high <= MAX_DIFFICULTY:
        raise ValueError(
            f"difficulty range must satisfy 0 <= low <= high <= {MAX_DIFFICULTY}, got {low}..{high}"
        )
    rng = _stream(split, index, seed, _SCENE_STREAM)
    difficulty = low + (high - low) * float(rng.random())
    background = _background(rng, difficulty)
    objects = _place_objects(rng, difficulty, background, size)
    pixels = _render(rng, difficulty, background, objects, size)
    return Scene(split, index, seed, difficulty, objects, pixels)


def questions(scene: Scene, per_image: int, kinds: Sequence[str] = KINDS) -> tuple[Question, ...]:
    """Draw up to ``per_image`` different questions on a scene.

    The kinds are dealt in shuffled rounds, so that they stay balanced; a kind listed twice is
    dealt twice as often. Kinds that do not apply to the scene are skipped, so fewer questions
    may come back.

    Raises:
        ValueError: If a kind is unknown.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown question kinds {unknown}; available: {', '.join(KINDS)}")
    rng = _stream(scene.split, scene.index, scene.seed, _QUESTION_STREAM)
    drawn: list[Question] = []
    texts: set[str] = set()
    for _ in range(3 * (1 + per_image // max(1, len(kinds)))):
        for position in rng.permutation(len(kinds)):
            if len(drawn) == per_image:
                return tuple(drawn)
            question = _ask(rng, scene, kinds[int(position)])
            if question is not None and question.text + question.kind not in texts:
                texts.add(question.text + question.kind)
                drawn.append(question)
    return tuple(drawn)


def render_choices(choices: Sequence[str]) -> str:
    """Format the choices as the model was trained on them; empty without choices.

    Example:
        >>> print(render_choices(("red", "blue")))
        <BLANKLINE>
        A. red
        B. blue
    """
    lettered = zip(LETTERS, choices, strict=False)
    return "".join(f"\n{letter}. {choice}" for letter, choice in lettered)


def half_size_range(difficulty: float) -> tuple[float, float]:
    """Smallest and largest half side of an object, in pixels."""
    return 7.5 - 4.2 * difficulty, 11.0 - 3.5 * difficulty


def object_count_range(difficulty: float) -> tuple[int, int]:
    """Smallest and largest number of objects a scene aims at; crowded ones may hold fewer."""
    return 1 + round(difficulty), min(3 + round(3 * difficulty), MAX_OBJECTS)


def noise_sigma(difficulty: float) -> float:
    """Standard deviation of the pixel noise, in grey levels."""
    return 2.0 + 20.0 * difficulty


def max_ambiguity(difficulty: float) -> float:
    """Bound on the distance to the own palette colour over that to the nearest other one."""
    return 0.25 + 0.6 * difficulty


def min_size_gap(difficulty: float) -> float:
    """Smallest lead of the largest object for a ``largest`` question, in pixels."""
    return 2.0 - 1.6 * difficulty


def min_centre_gap(difficulty: float) -> float:
    """Smallest distance from the centre lines for a ``position`` question, in pixels."""
    return max(6.0 - 5.4 * difficulty, 0.0)


def color_ambiguity(rgb: Sequence[float], color: str) -> float:
    """Distance of ``rgb`` to the named colour over its distance to the nearest other colour."""
    distances = np.linalg.norm(_PALETTE_RGB - np.asarray(rgb, dtype=np.float64), axis=1)
    own = COLORS.index(color)
    return float(distances[own] / np.delete(distances, own).min())


def _stream(split: str, index: int, seed: int, purpose: int) -> np.random.Generator:
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; available: {', '.join(_SPLITS)}")
    key = (_SPLITS[split], index, purpose)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _background(rng: np.random.Generator, difficulty: float) -> npt.NDArray[np.float64]:
    level = _uniform(rng, 236.0 - 70.0 * difficulty, 246.0)
    return np.clip(level + rng.uniform(-9.0, 9.0, 3), 0.0, 255.0)


def _place_objects(
    rng: np.random.Generator,
    difficulty: float,
    background: npt.NDArray[np.float64],
    size: tuple[int, int],
) -> tuple[SceneObject, ...]:
    fewest, most = object_count_range(difficulty)
    wanted = int(rng.integers(fewest, most + 1))
    objects: list[SceneObject] = []
    names: set[str] = set()
    for _ in range(60):
        if len(objects) == wanted:
            break
        candidate = _draw_object(rng, difficulty, background, objects, size)
        if candidate.name not in names and not any(
            _collide(candidate, other, difficulty) for other in objects
        ):
            names.add(candidate.name)
            objects.append(candidate)
    return tuple(objects)


def _draw_object(
    rng: np.random.Generator,
    difficulty: float,
    background: npt.NDArray[np.float64],
    objects: Sequence[SceneObject],
    size: tuple[int, int],
) -> SceneObject:
    shape, color = _pick(rng, SHAPES), _pick(rng, COLORS)
    # Repeated shapes and colours make counting and telling objects apart worth asking about.
    if objects and rng.random() < 0.25:
        color = objects[-1].color
    elif objects and rng.random() < 0.33:
        shape = objects[-1].shape
    half = _uniform(rng, *half_size_range(difficulty))
    stretch = math.sqrt(_uniform(rng, 0.75, 1.3)) if shape == "rectangle" else 1.0
    half_width, half_height = half * stretch, half / stretch
    leaning = _pick(rng, [other for other in COLORS if other != color])
    return SceneObject(
        shape=shape,
        color=color,
        leaning=leaning,
        rgb=_tint(rng, difficulty, background, color, leaning),
        x=_uniform(rng, half_width + 1, size[0] - half_width - 1),
        y=_uniform(rng, half_height + 1, size[1] - half_height - 1),
        half_width=half_width,
        half_height=half_height,
    )


def _tint(
    rng: np.random.Generator,
    difficulty: float,
    background: npt.NDArray[np.float64],
    color: str,
    leaning: str,
) -> tuple[int, int, int]:
    base = np.array(PALETTE[color], dtype=np.float64)
    lean = 0.45 * difficulty * float(rng.random())
    fade = 0.35 * difficulty * float(rng.random())
    offset = lean * (np.array(PALETTE[leaning]) - base) + fade * (background - base)
    offset += rng.uniform(-14.0, 14.0, 3)
    for _ in range(20):
        rounded = np.clip(np.rint(base + offset), 0, 255)
        rgb = (int(rounded[0]), int(rounded[1]), int(rounded[2]))
        if color_ambiguity(rgb, color) <= max_ambiguity(difficulty):
            return rgb
        offset *= 0.85
    return PALETTE[color]


def _collide(a: SceneObject, b: SceneObject, difficulty: float) -> bool:
    reach, gap = 1.0 - 0.2 * difficulty, 2.0 * max(1.0 - difficulty, 0.0)
    return (
        abs(a.x - b.x) < (a.half_width + b.half_width) * reach + gap
        and abs(a.y - b.y) < (a.half_height + b.half_height) * reach + gap
    )


def _render(
    rng: np.random.Generator,
    difficulty: float,
    background: npt.NDArray[np.float64],
    objects: Sequence[SceneObject],
    size: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    paper = (int(background[0]), int(background[1]), int(background[2]))
    image = Image.new("RGB", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), paper)
    draw = ImageDraw.Draw(image)
    for item in objects:
        _draw_shape(draw, item)
    clean = np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float64)
    noisy = clean + noise_sigma(difficulty) * rng.standard_normal(clean.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _draw_shape(draw: ImageDraw.ImageDraw, item: SceneObject) -> None:
    k = _SUPERSAMPLING
    x, y, w, h = item.x * k, item.y * k, item.half_width * k, item.half_height * k
    if item.shape == "circle":
        draw.ellipse((x - w, y - h, x + w, y + h), fill=item.rgb)
    elif item.shape == "rectangle":
        draw.rectangle((x - w, y - h, x + w, y + h), fill=item.rgb)
    elif item.shape == "triangle":
        draw.polygon([(x, y - h), (x - w, y + h), (x + w, y + h)], fill=item.rgb)
    else:
        draw.rectangle((x - w, y - h / 3, x + w, y + h / 3), fill=item.rgb)
        draw.rectangle((x - w / 3, y - h, x + w / 3, y + h), fill=item.rgb)


def _ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """Draw one question, or None when the kind does not apply to the scene."""
    if kind == "exist":
        return _ask_exist(rng, scene)
    if kind in ("color", "mc_color"):
        return _ask_color(rng, scene, kind)
    if kind in ("shape", "mc_shape"):
        return _ask_shape(rng, scene, kind)
    if kind in ("count", "mc_count"):
        return _ask_count(rng, scene, kind)
    if kind == "position":
        return _ask_position(rng, scene)
    if kind == "largest":
        return _ask_largest(rng, scene)
    return _ask_describe(scene)


def _ask_exist(rng: np.random.Generator, scene: Scene) -> Question | None:
    target = _pick(rng, scene.objects)
    color, shape, answer = target.color, target.shape, "yes"
    if rng.random() < 0.5:
        # Near misses: one property right, the other wrong, so that both must be bound together.
        style, answer = rng.random(), "no"
        if style < 0.4:
            shape = _pick(rng, SHAPES)
        elif style < 0.6:
            color = target.leaning
        elif style < 0.85:
            color = _pick(rng, COLORS)
        else:
            color, shape = _pick(rng, COLORS), _pick(rng, SHAPES)
        if any(item.name == f"{color} {shape}" for item in scene.objects):
            return None
    template = _pick(
        rng,
        (
            "is there a {}?",
            "is there a {} in the image?",
            "does the image contain a {}?",
            "is a {} present?",
        ),
    )
    return Question("exist", template.format(f"{color} {shape}"), (), answer)


def _ask_color(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    shapes = [item.shape for item in scene.objects]
    unique = [item for item in scene.objects if shapes.count(item.shape) == 1]
    if not unique:
        return None
    target = _pick(rng, unique)
    template = _pick(rng, ("what color is the {}?", "what is the color of the {}?"))
    text = template.format(target.shape)
    if kind == "color":
        return Question(kind, text, (), target.color)
    present = [item.color for item in scene.objects]
    preferred = [target.leaning] if rng.random() < 0.5 else []
    if rng.random() < 0.6:
        preferred += present
    return _with_choices(rng, kind, text, target.color, COLORS, preferred)


def _ask_shape(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    colors = [item.color for item in scene.objects]
    unique = [item for item in scene.objects if colors.count(item.color) == 1]
    if not unique:
        return None
    target = _pick(rng, unique)
    template = _pick(rng, ("what shape is the {} object?", "what is the {} shape?"))
    text = template.format(target.color)
    if kind == "shape":
        return Question(kind, text, (), target.shape)
    return _with_choices(rng, kind, text, target.shape, SHAPES, [])


def _ask_count(rng: np.random.Generator, scene: Scene, kind: str) -> Question:
    style = rng.random()
    if style < 0.4:
        shape = _pick(rng, SHAPES if rng.random() < 0.25 else [o.shape for o in scene.objects])
        count = sum(item.shape == shape for item in scene.objects)
        counted = shape + ("es" if shape == "cross" else "s")
    elif style < 0.7:
        color = _pick(rng, COLORS if rng.random() < 0.25 else [o.color for o in scene.objects])
        count = sum(item.color == color for item in scene.objects)
        counted = f"{color} objects"
    else:
        count, counted = len(scene.objects), "objects"
    text = f"how many {counted} are there?"
    if kind == "count":
        return Question(kind, text, (), str(count))
    numbers = [str(number) for number in range(MAX_OBJECTS + 1)]
    # Only one neighbour: with both, the answer would be the middle one of the choices.
    neighbour = str(count + _pick(rng, (-1, 1)))
    preferred = [neighbour] if neighbour in numbers else []
    return _with_choices(rng, kind, text, str(count), numbers, preferred)


def _ask_position(rng: np.random.Generator, scene: Scene) -> Question | None:
    height, width = scene.pixels.shape[:2]
    middle, gap = (width / 2, height / 2), min_centre_gap(scene.difficulty)
    clear = [o for o in scene.objects if min(abs(o.x - middle[0]), abs(o.y - middle[1])) >= gap]
    if not clear:
        return None
    target = _pick(rng, clear)
    vertical = "top" if target.y < middle[1] else "bottom"
    horizontal = "left" if target.x < middle[0] else "right"
    return Question("position", f"where is the {target.name}?", (), f"{vertical} {horizontal}")


def _ask_largest(rng: np.random.Generator, scene: Scene) -> Question | None:
    ranked = sorted(scene.objects, key=lambda item: item.size, reverse=True)
    if len(ranked) < 2 or ranked[0].size - ranked[1].size < min_size_gap(scene.difficulty):
        return None
    if rng.random() < 0.5:
        return Question("largest", "what color is the largest object?", (), ranked[0].color)
    return Question("largest", "what shape is the largest object?", (), ranked[0].shape)


def _ask_describe(scene: Scene) -> Question | None:
    if len(scene.objects) > _MAX_DESCRIBED:
        return None
    ordered = sorted(scene.objects, key=lambda item: item.x)
    answer = ", ".join(f"a {item.name}" for item in ordered)
    return Question("describe", "describe the image from left to right.", (), answer)


def _with_choices(
    rng: np.random.Generator,
    kind: str,
    text: str,
    answer: str,
    options: Sequence[str],
    preferred: Sequence[str],
) -> Question:
    """Add the answer and three distractors in random order, the preferred ones first."""
    rest = [options[int(i)] for i in rng.permutation(len(options))]
    wrong = [option for option in dict.fromkeys([*preferred, *rest]) if option != answer][:3]
    shuffled = [answer, *wrong]
    choices = tuple(shuffled[int(i)] for i in rng.permutation(len(shuffled)))
    return Question(kind, text, choices, LETTERS[choices.index(answer)])
