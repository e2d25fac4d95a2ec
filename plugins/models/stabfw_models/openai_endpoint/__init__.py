"""Model `openai-endpoint`: whatever an OpenAI-compatible server answers with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import LoadedModel, LoadRequest, Model, ModelConfig, ModelInfo
from stabfw.registry import hookimpl


class OpenAiEndpointConfig(ModelConfig):
    """Config of `openai-endpoint`."""

    url: str = Field(
        pattern=r"^https?://\S+$", description="Base address, such as `http://localhost:8000/v1`."
    )
    model: str = Field(min_length=1, description="Name of the model on the server.")
    revision: str = Field(
        default="",
        description="What is served. The server cannot be asked, so change this when its weights "
        "or version change, or older answers are reused.",
    )
    api_key: str | None = Field(
        default=None,
        pattern=r"^\$\{env:\w+\}$",
        description="Environment variable with the key, as `${env:NAME}`; never the key itself.",
    )
    logprobs: bool = Field(default=True, description="Ask for log-probabilities.")
    concurrency: int = Field(default=8, ge=1, description="Requests under way at a time.")
    timeout_s: float = Field(default=120, gt=0, description="Patience with one request.")
    retries: int = Field(
        default=6, ge=0, description="Further tries after errors of server or connection."
    )


class OpenAiEndpoint(Model[OpenAiEndpointConfig]):
    """A served model, asked by `POST /chat/completions` with temperature 0.

    Pictures are sent as PNG, so every server sees the same pixels. Nothing is known of the model
    but its answers: there is no anatomy, and the accelerator to compare it with is `replace`,
    another server. What shares a batch on the server is up to the server.
    """

    config_cls: ClassVar[type[OpenAiEndpointConfig]] = OpenAiEndpointConfig

    def request(self) -> LoadRequest:
        """Name the server and the model on it."""
        return LoadRequest(
            source=self.config.url.rstrip("/"),
            revision=self.config.revision,
            dtype="",
            attention="",
            device="remote",
            options={"model": self.config.model, "logprobs": self.config.logprobs},
        )

    def describe(self, request: LoadRequest) -> ModelInfo:
        """Nothing is known of a served model."""
        return ModelInfo(family="served")

    def open(self, request: LoadRequest) -> AbstractContextManager[LoadedModel]:
        """Prepare connections; the first request opens one.

        Raises:
            RunError: If the environment variable of the key is not set.
        """
        from stabfw_models.openai_endpoint.client import opened

        return opened(self.config, request, self.describe(request))


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer `openai-endpoint`."""
    register("openai-endpoint", OpenAiEndpoint)
