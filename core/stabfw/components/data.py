"""What flows from a benchmark to a model and back: instances, prompts, predictions, answers."""

from __future__ import annotations

import enum
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stabfw.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

_FORMATS = ("PNG", "JPEG", "WEBP")
#: Pictures with more pixels are refused. It is what Pillow warns of as a decompression bomb.
MAX_PIXELS = 89_478_485
_DICOM = (
    "it is a DICOM file, whose values have no brightness until a window is chosen. Convert it "
    "with the window that a reader would use: pydicom's apply_modality_lut and apply_voi_lut, "
    "scaled to 0..255 and saved as PNG, or DCMTK's dcm2img --use-window"
)
_DEEP = (
    "its grey values have 16 bits and would be clipped to white. Choose the range to be seen "
    "(low, high), and save (clip(values, low, high) - low) / (high - low) * 255 as an 8-bit PNG"
)


class AnswerKind(enum.StrEnum):
    """How the answer to a question looks, which decides what can be perturbed and compared."""

    YES_NO = "yes-no"
    CHOICE = "choice"
    SHORT = "short"
    FREE = "free"


class AnswerStatus(enum.StrEnum):
    """What came of reading an answer out of a model's text.

    `unjudged` is an answer that was read, but that a judge was not asked about or said nothing
    readable of.
    """

    OK = "ok"
    INVALID = "invalid"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    ERROR = "error"
    UNJUDGED = "unjudged"


class FinishReason(enum.StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, eq=False)
class Image:
    """A picture that is decoded when it is needed.

    Attributes:
        digest: sha256 of the original bytes (or of shape and pixels, where there are no bytes).
        load: Decodes the picture to RGB pixels, uint8 of shape (height, width, 3).

    Example:
        >>> import numpy as np
        >>> Image.from_pixels(np.zeros((2, 3, 3), np.uint8)).pixels.shape
        (2, 3, 3)
    """

    digest: str
    load: Callable[[], Pixels] = field(repr=False)

    @classmethod
    def from_pixels(cls, pixels: Pixels) -> Image:
        """Wrap RGB pixels, uint8 of shape (height, width, 3)."""
        content = repr(pixels.shape).encode() + pixels.tobytes()
        return cls(hashlib.sha256(content).hexdigest(), lambda: pixels)

    @classmethod
    def from_file(cls, path: Path) -> Image:
        """Refer to a PNG, JPEG or WEBP file; it is hashed now and decoded when needed.

        Raises:
            DataError: If the file cannot be read.
        """
        return cls(hashlib.sha256(_read(path)).hexdigest(), lambda: _decode(_read(path), str(path)))

    @classmethod
    def from_bytes(cls, read: Callable[[], bytes], where: str) -> Image:
        """Refer to the bytes of a PNG, JPEG or WEBP picture, which are hashed now.

        Args:
            read: Gives the bytes, which need not be kept in memory.
            where: Where they are, for messages.
        """
        return cls(hashlib.sha256(read()).hexdigest(), lambda: _decode(read(), where))

    @property
    def pixels(self) -> Pixels:
        """The decoded picture, uint8 of shape (height, width, 3).

        Raises:
            DataError: If the bytes are not a readable PNG, JPEG or WEBP picture.
        """
        return self.load()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror}") from error


def _decode(data: bytes, where: str) -> Pixels:
    """Decode upright RGB pixels.

    The orientation that EXIF tells is applied. What is transparent lies on white, as viewers show
    it; without that, hidden colours would appear. CMYK and palettes are converted; colour profiles
    are left out of account. Of 16 bits a colour channel the upper 8 are kept.
    """
    import numpy as np
    from PIL import Image as PillowImage
    from PIL import ImageOps, UnidentifiedImageError

    if data[128:132] == b"DICM":
        raise DataError(f"{where}: not a readable image: {_DICOM}")
    try:
        with PillowImage.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}: make "
                    "it smaller"
                )
            if picture.mode.startswith(("I", "F")):
                raise ValueError(_DEEP)
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                white = PillowImage.new("RGBA", layer.size, "white")
                upright = PillowImage.alpha_composite(white, layer)
            return np.asarray(upright.convert("RGB"))
    except Exception as error:
        # Damaged bytes make decoders raise nearly anything. Pillow names the stream that it was
        # given, by its address.
        why = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where}: not a readable image ({why}); stabfw reads {', '.join(_FORMATS)}"
        ) from error


@dataclass(frozen=True)
class Choice:
    """One option of a multiple-choice question; answers are its `id`, whatever its place."""

    id: str
    text: str


@dataclass(frozen=True)
class Instance:
    """One question with its images: the unit that is compared.

    Attributes:
        id: Identity of the question. A perturbed instance keeps the id of its original.
        images: The pictures, in the order of the prompt.
        question: The question without its options.
        kind: How the answer looks.
        choices: The options, in the order shown.
        hint: Further context that the benchmark gives.
        option_style: How the first option is labelled: `A.`, `A)`, `(A)`, `A:`, `a)` or `(a)`.
        references: Gold answers (choice ids where there are choices).
        cluster_id: Instances with the same value are not independent (same picture, patient).
        group_id: Instances that are scored together.
        slices: Names under which results are broken down, such as {"kind": "count"}.
    """

    id: str
    images: tuple[Image, ...]
    question: str
    kind: AnswerKind = AnswerKind.SHORT
    choices: tuple[Choice, ...] = ()
    hint: str = ""
    option_style: str = "A."
    references: tuple[str, ...] = ()
    cluster_id: str = ""
    group_id: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        images: tuple[Image, ...],
        question: str,
        *,
        native_id: str | int,
        kind: AnswerKind = AnswerKind.SHORT,
        choices: tuple[Choice, ...] = (),
        hint: str = "",
        references: tuple[str, ...] = (),
        cluster_id: str | None = None,
        group_id: str = "",
        slices: Mapping[str, str] | None = None,
    ) -> Instance:
        """Make an instance whose id follows from its content.

        The references are left out of the id, so correcting a gold label keeps predictions valid.

        Args:
            images: The pictures.
            question: The question without its options.
            native_id: The data set's own id, or the occurrence number where it has none.
            kind: How the answer looks.
            choices: The options.
            hint: Further context.
            references: Gold answers.
            cluster_id: Defaults to the digest of the first image.
            group_id: Instances that are scored together.
            slices: Names under which results are broken down.

        Returns:
            The instance.
        """
        content = [
            [image.digest for image in images],
            question,
            hint,
            [[choice.id, choice.text] for choice in choices],
            str(native_id),
        ]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        if cluster_id is None:
            cluster_id = images[0].digest[:16] if images else digest
        return cls(
            id=digest,
            images=images,
            question=question,
            kind=kind,
            choices=choices,
            hint=hint,
            references=references,
            cluster_id=cluster_id,
            group_id=group_id,
            slices=dict(slices or {}),
        )

    def with_pixels(self, change: Callable[[Pixels], Pixels]) -> Instance:
        """Return the instance with every picture changed by `change` (a pure function)."""
        return replace(
            self, images=tuple(Image.from_pixels(change(image.pixels)) for image in self.images)
        )


@dataclass(frozen=True)
class Outline:
    """How much a split holds, told without its data.

    Attributes:
        instances: Number of instances.
        images: Width and height in pixels of the pictures of a typical instance.
        text_tokens: Tokens of a typical prompt besides the visual ones, roughly.
        answer_tokens: Tokens of a typical answer, roughly.
    """

    instances: int
    images: tuple[tuple[int, int], ...]
    text_tokens: int
    answer_tokens: int = 3


@dataclass(frozen=True)
class Option:
    """One of the answers that a question lets a model choose from.

    Attributes:
        id: The answer's value, as it is read out of a text.
        texts: The ways to write it that count, such as `Yes` and `yes`.
    """

    id: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: pictures and text, before its own chat template.

    Attributes:
        instance_id: The instance that it was rendered from.
        images: The pictures, after perturbation.
        text: The whole user message, options included.
        options: The answers to choose from; empty where the answer is free.
    """

    instance_id: str
    images: tuple[Image, ...]
    text: str
    options: tuple[Option, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of pictures, text and options: two sides of a pair must agree on it."""
        options = [[option.id, option.texts] for option in self.options]
        content = [[image.digest for image in self.images], self.text, options]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class TopToken:
    """One of the most likely first tokens of an answer; `logprob` is a natural logarithm."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Prediction:
    """What a model answered to one prompt.

    Attributes:
        text: The generated text, without special tokens.
        token_ids: The generated tokens, the end token included where it was reached.
        logprobs: Natural log-probability of each generated token.
        top: The most likely first tokens, best first.
        finish: Why generation ended.
        visual_tokens: Number of visual tokens that each decoder layer saw in prefill.
        token_depths: Which ones: for each visual token of the prompt, in its order, the number of
            decoder layers that saw it. Empty where none was dropped, or nothing is known.
        options: Natural log-probability of each option by id, normalised over the options; empty
            where there are none or the model does not tell.
        options_logprob: Natural log-probability of all options together, before that: how much
            of what the model would say is an option at all.
        prefill_ms: Wall time until the first token was chosen, in milliseconds: the batch's
            divided by its size. None where a server does not tell it apart.
        decode_ms: The same of all that followed, or of everything where `prefill_ms` is None.
        error: What went wrong, where `finish` is `error`.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[TopToken, ...] = ()
    finish: FinishReason = FinishReason.STOP
    visual_tokens: tuple[int, ...] = ()
    token_depths: bytes = b""
    options: Mapping[str, float] = field(default_factory=dict)
    options_logprob: float | None = None
    prefill_ms: float | None = None
    decode_ms: float = 0.0
    error: str = ""

    @property
    def margin(self) -> float | None:
        """Log-probability of the best first token minus that of the second, if known."""
        return self.top[0].logprob - self.top[1].logprob if len(self.top) > 1 else None


@dataclass(frozen=True)
class Answer:
    """The answer read out of a prediction's text; `value` is None unless `status` is `ok`."""

    value: str | None
    kind: AnswerKind
    status: AnswerStatus = AnswerStatus.OK


@dataclass(frozen=True)
class Score:
    """How good an answer is: `value` in [0, 1], and whether that counts as correct.

    Only a judge that finds an answer better than the reference gives more than 1.
    """

    value: float
    correct: bool
