"""`parrot`: a model without a network, whose answers follow from prompt, weights and dtype."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field
from stabfw.components import (
    Encoded,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    Model,
    ModelConfig,
    ModelInfo,
    Prediction,
    TopToken,
    file_digest,
)
from stabfw.registry import hookimpl

WORDS = ("yes", "no", "red", "blue", "2", "3", "A", "B", "top left", "circle")


class ParrotConfig(ModelConfig):
    weights: Path | None = Field(None, description="File whose content decides the answers.")
    dtype: str = Field("float32", description="Enters the answers.")
    can_score: bool = Field(True, description="Whether it scores given answers.")
    delay_ms: float = Field(0, ge=0, description="Time that each batch takes.")
    batch_sensitive: float = Field(
        0, ge=0, le=1, description="Share of answers that depend on who shares the batch."
    )


class LoadedParrot(LoadedModel):
    def __init__(self, config: ParrotConfig, info: ModelInfo, request: LoadRequest) -> None:
        self.config, self.info, self.request = config, info, request
        self.salt = f"{dict(info.weights)} {request.dtype}"

    def encode(self, prompts):
        return Encoded(
            tuple(p.instance_id for p in prompts),
            {"digests": tuple(p.digest for p in prompts)},
            tuple({o.id: ((_word(o.texts),),) for o in p.options} for p in prompts),
        )

    def generate(self, encoded, options: GenerationOptions):
        time.sleep(self.config.delay_ms / 1000)
        company = "".join(sorted(encoded.inputs["digests"]))
        return [self._answer(d, company, options) for d in encoded.inputs["digests"]]

    def score(self, encoded, continuations, options: GenerationOptions):
        time.sleep(self.config.delay_ms / 1000)
        company = "".join(sorted(encoded.inputs["digests"]))
        return [
            [self._answer(digest, company, options, token) for (token,) in row]
            for digest, row in zip(encoded.inputs["digests"], continuations, strict=True)
        ]

    def _answer(
        self, digest: str, company: str, options: GenerationOptions, token: int | None = None
    ) -> Prediction:
        draw = number_of(digest)
        seen = company if draw % 1000 < 1000 * self.config.batch_sensitive else ""
        number = number_of(self.salt + digest + seen)
        token = number % len(WORDS) if token is None else token
        logprob = -(number_of(f"{self.salt}{digest}{seen}{token}") % 1000) / 1000
        text = WORDS[token][: options.max_new_tokens]
        margin = (number // 1000 % 1000) / 250
        top = (TopToken(0, text, -0.1), TopToken(1, "other", -0.1 - margin))
        return Prediction(text, (token,), (logprob,), top, prefill_ms=0.1)


class Parrot(Model[ParrotConfig]):
    config_cls = ParrotConfig
    notice = "The parrot is a test model."

    def request(self) -> LoadRequest:
        return LoadRequest(source="parrot", dtype=self.config.dtype)

    def describe(self, request: LoadRequest) -> ModelInfo:
        path = self.config.weights
        weights = {"weights": file_digest(path)} if path else {"weights": "none"}
        return ModelInfo(
            family="parrot", weights=weights, processor="parrot", can_score=self.config.can_score
        )

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedParrot]:
        yield LoadedParrot(self.config, self.describe(request), request)


def _word(texts: tuple[str, ...]) -> int:
    return next(WORDS.index(text) for text in texts if text in WORDS)


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@hookimpl
def stabfw_register_models(register):
    register("parrot", Parrot)
