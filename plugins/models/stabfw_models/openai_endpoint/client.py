"""Ask an OpenAI-compatible server, several requests at a time, and try again when it fails."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import urllib3
from PIL import Image as PillowImage
from stabfw.components import (
    Encoded,
    FinishReason,
    GenerationOptions,
    Image,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Prediction,
    Prompt,
    TopToken,
)
from stabfw.components.model import Tokens
from stabfw.errors import RunError, UnsupportedError

if TYPE_CHECKING:
    from stabfw_models.openai_endpoint import OpenAiEndpointConfig

#: What is worth another try: too many requests, and errors of the server or of what is before it.
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_BACKOFF_S = 0.5
_NO_ID = -1


@contextmanager
def opened(
    config: OpenAiEndpointConfig, request: LoadRequest, info: ModelInfo
) -> Iterator[LoadedEndpoint]:
    """Give a client of the server; leaving the context closes its connections.

    Raises:
        RunError: If the environment variable of the key is not set.
    """
    headers = {"Content-Type": "application/json", **_authorization(config.api_key)}
    retry = urllib3.Retry(
        total=config.retries,
        status_forcelist=_TRANSIENT,
        # Asking the same question again changes nothing on the server.
        allowed_methods=None,
        backoff_factor=_BACKOFF_S,
        raise_on_status=False,
    )
    with (
        urllib3.PoolManager(
            maxsize=config.concurrency,
            block=True,
            headers=headers,
            retries=retry,
            timeout=config.timeout_s,
        ) as pool,
        ThreadPoolExecutor(config.concurrency) as threads,
    ):
        yield LoadedEndpoint(config, request, info, pool, threads)


class LoadedEndpoint(LoadedModel):
    """A server that is being asked."""

    def __init__(
        self,
        config: OpenAiEndpointConfig,
        request: LoadRequest,
        info: ModelInfo,
        pool: urllib3.PoolManager,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.request, self.info = request, info
        self._config, self._pool, self._threads = config, pool, threads

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        """Turn each prompt into a user message.

        Raises:
            DataError: If an image cannot be read.
        """
        messages = tuple(_message(prompt) for prompt in prompts)
        return Encoded(tuple(prompt.instance_id for prompt in prompts), {"messages": messages})

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        """Ask for every row.

        Raises:
            RunError: If the server refuses, or still fails after all tries.
        """
        bodies = [self._body(message, options) for message in encoded.inputs["messages"]]
        return list(self._threads.map(self._ask, bodies))

    def score(
        self,
        encoded: Encoded,
        continuations: Sequence[Sequence[Tokens]],
        options: GenerationOptions,
    ) -> list[list[Prediction]]:
        """Refuse.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            f"{self.request.source}: chat completions tell the log-probabilities of the server's "
            "own answers only, so a given answer cannot be scored"
        )

    def _body(self, message: dict[str, Any], options: GenerationOptions) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.request.options["model"],
            "messages": [message],
            "max_tokens": options.max_new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        if self.request.options["logprobs"]:
            body |= {"logprobs": True, "top_logprobs": options.top_tokens}
        return {**body, **options.extra}

    def _ask(self, body: dict[str, Any]) -> Prediction:
        url = f"{self.request.source}/chat/completions"
        begin = time.perf_counter()
        try:
            response = self._pool.request("POST", url, body=json.dumps(body).encode())
        except urllib3.exceptions.HTTPError as error:
            raise RunError(
                f"{url} does not answer after {self._config.retries + 1} tries: {error}; give the "
                "same command again when the server is up, nothing is lost"
            ) from error
        if response.status != 200:
            raise RunError(_refusal(url, response))
        latency_ms = 1000 * (time.perf_counter() - begin)
        try:
            return _prediction(response.json(), latency_ms)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(
                f"{url} answers with something else than a chat completion "
                f"({type(error).__name__}: {error}): {response.data[:200]!r}"
            ) from error


def _authorization(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    name = api_key.removeprefix("${env:").removesuffix("}")
    if not (key := os.environ.get(name)):
        raise RunError(f"the environment variable {name}, which is to hold the key, is not set")
    return {"Authorization": f"Bearer {key}"}


def _message(prompt: Prompt) -> dict[str, Any]:
    pictures = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in prompt.images
    ]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": prompt.text}]}


def _data_url(image: Image) -> str:
    data = io.BytesIO()
    PillowImage.fromarray(image.pixels).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _prediction(answer: Any, latency_ms: float) -> Prediction:
    choice = answer["choices"][0]
    told = choice.get("logprobs") or {}
    tokens = told.get("content") or []
    first = tokens[0].get("top_logprobs") or [] if tokens else []
    ranked = sorted(first, key=lambda token: -token["logprob"])
    finish = FinishReason.LENGTH if choice["finish_reason"] == "length" else FinishReason.STOP
    return Prediction(
        text=(choice["message"]["content"] or "").strip(),
        logprobs=tuple(token["logprob"] for token in tokens),
        # Servers name tokens by their text only.
        top=tuple(TopToken(_NO_ID, token["token"], token["logprob"]) for token in ranked),
        finish=finish,
        decode_ms=latency_ms,
    )


def _refusal(url: str, response: urllib3.BaseHTTPResponse) -> str:
    said = response.data[:300].decode(errors="replace").strip()
    what = f"{url} answers with HTTP {response.status}: {said or response.reason}"
    if response.status in (401, 403):
        return f"{what}; name the environment variable with the key as `api_key: ${{env:NAME}}`"
    if response.status in _TRANSIENT:
        return f"{what}, after all tries; give the same command again later, nothing is lost"
    return f"{what}; is `model` right, and does the server take pictures and log-probabilities?"
