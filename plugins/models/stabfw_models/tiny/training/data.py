"""Turn scenes and easy-VQA into training batches; every batch is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from stabfw_benchmarks.shapes import scenes
from transformers import PreTrainedTokenizerFast

from stabfw_models.tiny.training.architectures import CELL, Architecture, Inputs, Pixels

SHORT_SUFFIX: Final = "\nAnswer the question using a single word or phrase."
LETTER_SUFFIX: Final = "\nAnswer with the option's letter from the given choices directly."
KIND_MIX: Final = (
    *("exist", "position", "count", "mc_count") * 3,
    *("color", "shape", "largest", "mc_color", "mc_shape", "describe") * 2,
)
_SUFFIX_SHARE: Final = 0.07
_EASY_SHARE: Final = 0.1
_EASY_STREAM: Final = 9
_VISION_STREAM_START: Final = 10_000_000
_TOKENIZER_SCENES: Final = 1500

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Turn:
    """One question as the model reads it (choices and suffix included) and its answer."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Row:
    """One image and the questions that share it."""

    pixels: Pixels
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class EasyVqa:
    """One split of easy-VQA, by image."""

    images: dict[int, Pixels]
    turns: dict[int, tuple[Turn, ...]]


@dataclass(frozen=True)
class Prefix:
    """What stands before the questions on an image, the image included.

    ``positions`` has the shape (axes, tokens): three axes for multimodal rotary positions, else
    one. ``following`` is the position of a question's first token.
    """

    ids: list[int]
    positions: torch.Tensor
    following: int


@dataclass(frozen=True)
class PackedBatch:
    """Several questions per image in one sequence, so that the image is computed once.

    ``attention`` lets each question see the image and itself only; ``rows`` and ``columns`` point
    at the positions that predict ``targets``. ``position_ids`` has the shape (batch, length), or
    (3, batch, length) for multimodal rotary positions.
    """

    input_ids: torch.Tensor
    attention: torch.Tensor
    position_ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class VisionTargets:
    """What the throw-away heads of stage 0 predict, for a batch of scenes of one size.

    ``colors`` and ``shapes`` have the shape (scenes, rows, columns), ``presence`` (scenes, names).
    """

    colors: torch.Tensor
    shapes: torch.Tensor
    presence: torch.Tensor


@cache
def load_easy_vqa(split: str) -> EasyVqa:
    """Read easy-VQA (``"train"`` or ``"test"``) from the installed ``easy_vqa`` package."""
    import easy_vqa

    train = split == "train"
    texts, answers, image_ids = (
        easy_vqa.get_train_questions() if train else easy_vqa.get_test_questions()
    )
    paths = easy_vqa.get_train_image_paths() if train else easy_vqa.get_test_image_paths()
    images = {i: np.asarray(Image.open(path).convert("RGB")) for i, path in paths.items()}
    turns: dict[int, list[Turn]] = {}
    for text, answer, image_id in zip(texts, answers, image_ids, strict=True):
        turn = Turn(_easy_kind(text, answer), text, answer)
        turns.setdefault(image_id, []).append(turn)
    return EasyVqa(images, {image_id: tuple(items) for image_id, items in turns.items()})


def tokenizer_corpus(gap: str) -> Iterator[str]:
    """Yield the texts the tokenizer is trained on; the same for every training seed.

    Args:
        gap: What an answer begins with.
    """
    for index in range(_TOKENIZER_SCENES):
        for question in scenes.questions(scenes.generate("train", index), 6):
            yield question.text + scenes.render_choices(question.choices)
            yield gap + question.answer
    yield from (SHORT_SUFFIX, LETTER_SUFFIX)
    for turns in load_easy_vqa("train").turns.values():
        for turn in turns:
            yield turn.prompt


def scene_turn(question: scenes.Question, suffix: bool) -> Turn:
    """Render a scene question as a prompt, with LLaVA's instruction suffix if asked for."""
    prompt = question.text + scenes.render_choices(question.choices)
    if suffix:
        prompt += LETTER_SUFFIX if question.choices else SHORT_SUFFIX
    return Turn(question.kind, prompt, question.answer)


def language_rows(
    seed: int, step: int, images: int, per_image: int, hardest: float, sizes: Sizes
) -> list[Row]:
    """Draw the images and questions of one step of stage 1, about a tenth from easy-VQA."""
    easy = load_easy_vqa("train")
    easy_ids = sorted(easy.turns)
    rows = []
    for slot in range(images):
        index = step * images + slot
        sequence = np.random.SeedSequence(seed, spawn_key=(_EASY_STREAM, index))
        rng = np.random.Generator(np.random.PCG64(sequence))
        if rng.random() < _EASY_SHARE:
            image_id = easy_ids[int(rng.integers(len(easy_ids)))]
            turns = easy.turns[image_id]
            chosen = [turns[int(i)] for i in rng.permutation(len(turns))[:per_image]]
            rows.append(Row(easy.images[image_id], tuple(chosen)))
            continue
        scene = scenes.generate("train", index, seed, 0.0, hardest, sizes[index % len(sizes)])
        asked = scenes.questions(scene, per_image, KIND_MIX)
        suffixes = rng.random(len(asked)) < _SUFFIX_SHARE
        turns = tuple(
            scene_turn(question, bool(suffix) and question.kind != "describe")
            for question, suffix in zip(asked, suffixes, strict=True)
        )
        rows.append(Row(scene.pixels, turns))
    return rows


def vision_scenes(
    seed: int, step: int, images: int, hardest: float, sizes: Sizes
) -> list[scenes.Scene]:
    """Draw the scenes of one step of stage 0, all of one size."""
    start, size = _VISION_STREAM_START + step * images, sizes[step % len(sizes)]
    return [scenes.generate("train", start + i, seed, 0.0, hardest, size) for i in range(images)]


def vision_targets(batch: Sequence[scenes.Scene]) -> VisionTargets:
    """Label every cell with the object that fills most of it (0: none), and every scene."""
    height, width = (side // CELL for side in batch[0].pixels.shape[:2])
    colors = torch.zeros(len(batch), height, width, dtype=torch.long)
    shapes = torch.zeros_like(colors)
    presence = torch.zeros(len(batch), len(scenes.SHAPES), len(scenes.COLORS))
    for number, scene in enumerate(batch):
        most = np.full((height, width), 10.0)
        for item in scene.objects:
            color, shape = scenes.COLORS.index(item.color), scenes.SHAPES.index(item.shape)
            wide = _overlap(width, item.x - item.half_width, item.x + item.half_width)
            high = _overlap(height, item.y - item.half_height, item.y + item.half_height)
            covered = high[:, None] * wide[None, :]
            wins = torch.from_numpy(covered > most)
            most = np.maximum(most, covered)
            colors[number][wins] = 1 + color
            shapes[number][wins] = 1 + shape
            presence[number, shape, color] = 1.0
    return VisionTargets(colors, shapes, presence.flatten(1))


def token_weights(kind: str, length: int) -> list[float]:
    """Weight of each token of an answer in the loss."""
    # The end token is trivial; without a lower weight it would drown the token that decides.
    inner = 1.0 if kind == "position" else 0.5
    return [1.0] + [inner] * (length - 2) + [0.3]


class Packer:
    """Tokenise and pack rows, in exactly the tokens the processor gives for each question.

    Attributes:
        architecture: Whose prompts they are.
    """

    def __init__(self, architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
        @lru_cache(20_000)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self.architecture = architecture
        self._encode = encode
        self._image = tokenizer.convert_tokens_to_ids(architecture.image_token)
        # Only what comes first has the begin token.
        self._before = tokenizer.encode(architecture.before)
        self._pad, self._end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self._turn, self._gap = encode(architecture.turn), architecture.gap

    def prefix(self, model: Any, inputs: Inputs, row: int, visual_tokens: int) -> Prefix:
        """Lay out what stands before the questions on one image.

        Args:
            model: The model, for its rule of positions.
            inputs: The batch's images, as the architecture prepares them.
            row: The image's number among them.
            visual_tokens: How many tokens it became.
        """
        after = self._encode(self.architecture.after)
        ids = [*self._before, *[self._image] * visual_tokens, *after]
        positions = self.architecture.positions(model, torch.tensor(ids), inputs, row)
        return Prefix(ids, positions, int(positions.max()) + 1)

    def question_ids(self, turn: Turn) -> list[int]:
        """Tokens of a question, from behind the image up to where the answer begins."""
        return [*self._encode(turn.prompt), *self._turn]

    def answer_ids(self, turn: Turn) -> list[int]:
        """Tokens of an answer, with the end token."""
        return [*self._encode(self._gap + turn.answer), self._end]

    def pack(self, rows: Sequence[Row], prefixes: Sequence[Prefix]) -> PackedBatch:
        """Pack one sequence per row, behind what stands before its questions."""
        sequences, segments, positions = [], [], []
        where: list[tuple[int, int, int, float]] = []
        for number, (row, prefix) in enumerate(zip(rows, prefixes, strict=True)):
            ids, segment, spans = [*prefix.ids], [0] * len(prefix.ids), [prefix.positions]
            for turn_number, turn in enumerate(row.turns, 1):
                question, answer = self.question_ids(turn), self.answer_ids(turn)
                for offset, (token, weight) in enumerate(
                    zip(answer, token_weights(turn.kind, len(answer)), strict=True)
                ):
                    where.append((number, len(ids) + len(question) - 1 + offset, token, weight))
                ids += question + answer[:-1]
                length = len(ids) - len(segment)
                segment += [turn_number] * length
                span = torch.arange(prefix.following, prefix.following + length)
                spans.append(span.expand(len(prefix.positions), -1))
            sequences.append(ids)
            segments.append(segment)
            positions.append(torch.cat(spans, 1))
        length = max(map(len, sequences))
        segment_ids = _padded(segments, length, -1)
        own = segment_ids[:, :, None] == segment_ids[:, None, :]
        visible = own | (segment_ids[:, None, :] == 0)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        row_index, column, target, weight_list = zip(*where, strict=True)
        return PackedBatch(
            input_ids=_padded(sequences, length, self._pad),
            attention=(visible & causal)[:, None],
            position_ids=torch.stack(
                [F.pad(places, (0, length - places.shape[1])) for places in positions], 1
            ).squeeze(0),
            rows=torch.tensor(row_index),
            columns=torch.tensor(column),
            targets=torch.tensor(target),
            weights=torch.tensor(weight_list),
        )


def _padded(lists: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*items, *[value] * (length - len(items))] for items in lists])


def _overlap(cells: int, low: float, high: float) -> npt.NDArray[np.float64]:
    edges = np.arange(cells) * CELL
    shared = np.minimum(edges + CELL, high) - np.maximum(edges, low)
    covered: npt.NDArray[np.float64] = np.maximum(shared, 0.0)
    return covered


def _easy_kind(text: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "easy_negated" if " not " in text or " no " in text else "easy_yes_no"
    return "easy_color" if answer in scenes.COLORS else "easy_shape"
