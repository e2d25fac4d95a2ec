"""Contract of a model: described without weights, opened with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from stabfw.components.base import Component, ComponentConfig
from stabfw.components.data import Prediction, Prompt
from stabfw.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

    from stabfw.components.anatomy import Anatomy
    from stabfw.components.costs import Architecture


@dataclass(frozen=True)
class ModelInfo:
    """What can be told of a model without loading it; an accelerator decides on it.

    Attributes:
        family: The architecture, as `model_type` in its config names it (`llava`, `qwen2_vl`).
        layers: Number of decoder layers of the language model, None if unknown.
        visual_tokens: Visual tokens per image where that is fixed, else None.
        has_anatomy: Whether the loaded model can state its anatomy.
        no_reduction: Why visual tokens cannot be dropped although the parts are known; empty if
            they can.
        has_vision: Whether its anatomy tells where visual tokens are from and what the vision
            tower looks at.
        multimodal_positions: Whether tokens have several rotary positions (M-RoPE), which cannot
            be renumbered when tokens are dropped.
        can_score: Whether the loaded model can score answers that it is given.
        weights: sha256 of every file that decides the answers, by name.
        processor: Class of the processor, its image back end included.
    """

    family: str
    layers: int | None = None
    visual_tokens: int | None = None
    has_anatomy: bool = False
    no_reduction: str = ""
    has_vision: bool = False
    multimodal_positions: bool = False
    can_score: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""


@dataclass(frozen=True)
class LoadRequest:
    """How to load a model. Accelerators may replace fields; the result is part of the key.

    Attributes:
        source: Local directory, hub id or URL.
        revision: Commit on the hub, empty for a local directory.
        dtype: Name of the floating-point type, such as `float32` or `bfloat16`.
        attention: Attention back end: `sdpa` or `eager`.
        device: `cpu`, `cuda`, `cuda:N`, or `remote` for a model that is served elsewhere.
        threads: Intra-op threads on the CPU; their number can change the last bits.
        options: Further keyword arguments of the loader; JSON-compatible.
        processor: Further keyword arguments of the image processor; JSON-compatible.
    """

    source: str
    revision: str = ""
    dtype: str = "float32"
    attention: str = "sdpa"
    device: str = "cpu"
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationOptions:
    """Greedy decoding, spelled out; a checkpoint's own sampling settings never apply.

    Attributes:
        max_new_tokens: Upper limit of the answer's length, in tokens.
        top_tokens: How many of the most likely first tokens are recorded.
        extra: Further arguments of `generate`, from accelerators; JSON-compatible.
    """

    max_new_tokens: int = 16
    top_tokens: int = 5
    extra: Mapping[str, Any] = field(default_factory=dict)


Tokens = tuple[int, ...]
OptionTokens = Mapping[str, tuple[Tokens, ...]]


@dataclass(frozen=True)
class Encoded:
    """A batch ready for the model.

    Attributes:
        instance_ids: One id a row.
        inputs: The model's own tensors, left-padded.
        options: For each row, the tokens of each way to write an option, by its id; empty where
            the prompt has no options or the model cannot tell. Ways of several tokens are left
            out where every option has one of a single token.
    """

    instance_ids: tuple[str, ...]
    inputs: Mapping[str, Any]
    options: tuple[OptionTokens, ...] = ()


class LoadedModel(ABC):
    """A model in memory.

    Attributes:
        info: As described before loading, now observed.
        request: The request that it was loaded with.
        module: The torch module, for accelerators; None for a remote model.
        batch: The batch being generated, while `generate` runs.
        token_depths: For each row how deep its visual tokens went, as in `Prediction`; set by a
            token reduction while `generate` runs. Empty when nothing is reduced.
    """

    info: ModelInfo
    request: LoadRequest
    module: torch.nn.Module | None = None
    batch: Encoded | None = None
    token_depths: tuple[bytes, ...] = ()

    @property
    def anatomy(self) -> Anatomy | None:
        """Where the parts are that accelerators work on, or None if the model cannot tell."""
        return None

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        """Apply chat template and processor to a batch of prompts."""

    @abstractmethod
    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        """Answer each row greedily, in the order of `encoded.instance_ids`."""

    def tokens(self, prompt: Prompt, text: str) -> Tokens:
        """Return the tokens of a text where the model would begin its answer to a prompt.

        Raises:
            UnsupportedError: If the model cannot score.
            DataError: If there are no such tokens.
        """
        raise UnsupportedError(f"a {self.info.family} model does not tell its tokens")

    def score(
        self,
        encoded: Encoded,
        continuations: Sequence[Sequence[Tokens]],
        options: GenerationOptions,
    ) -> list[list[Prediction]]:
        """Tell how likely given answers are, on the very path that `generate` takes.

        Prefill as ever, then one forced token a step: whatever an accelerator does in prefill
        and to the cache, it does here too. Answers of a single token are all scored by one
        prefill.

        Args:
            encoded: The prompts.
            continuations: For each row, any number of answers of one or more tokens; an answer
                that `generate` ended has its end token.
            options: How the answers would have been generated; their length follows from
                `continuations`.

        Returns:
            For each row and answer, what `generate` would tell had it chosen these tokens:
            `logprobs` holds the log-softmax, in float32, of the raw logits.

        Raises:
            UnsupportedError: If the model cannot score; `info.can_score` says so beforehand.
            ValueError: If an answer has no tokens.
        """
        raise UnsupportedError(f"a {self.info.family} model cannot score given answers")


class ModelConfig(ComponentConfig):
    """What every model lets a user choose."""

    name: str | None = Field(
        default=None, description="Name in results; tells two models of one type apart."
    )


M = TypeVar("M", bound=ModelConfig)


class Model(Component[M]):
    """A model by its config.

    Attributes:
        typical: A config that can be outlined on any machine, to show what works on such models.
    """

    typical: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def request(self) -> LoadRequest:
        """How the user wants it loaded, with nothing left open. Must not import torch."""

    @abstractmethod
    def describe(self, request: LoadRequest) -> ModelInfo:
        """Tell what the model is from its files. Must not import torch.

        Raises:
            DataError: If the model's files are missing or not readable.
        """

    @abstractmethod
    def open(self, request: LoadRequest) -> AbstractContextManager[LoadedModel]:
        """Load the model; leaving the context frees it."""

    def outline(self) -> tuple[LoadRequest, ModelInfo] | None:
        """Tell what is known of `request` and `describe` without the checkpoint, for planning.

        Must not import torch. The default is None: the checkpoint has to be there.
        """
        return None

    def architecture(self) -> Architecture | None:
        """State the sizes from which costs follow, or None if they are not known.

        Must not import torch, and needs no weights.
        """
        return None
