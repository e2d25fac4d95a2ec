"""Accelerator `replace`: another checkpoint, or another server, in place of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Fidelity,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.registry import hookimpl


class ReplaceConfig(AcceleratorConfig):
    """Config of `replace`."""

    source: str = Field(
        min_length=1,
        description="What to load instead: a directory or hub id, or the address of a server.",
    )
    revision: str = Field(default="", description="Branch, tag or commit; what a server serves.")
    model: str | None = Field(
        default=None, description="Name of the model on a server, if it is another one."
    )


class Replace(Accelerator[ReplaceConfig]):
    """Loads something else where the acceleration was done beforehand: two checkpoints compared.

    For a checkpoint that was quantized or fine-tuned elsewhere, and for two servers of which one
    serves the accelerated model. Whatever the replacement differs in is taken for the
    acceleration.
    """

    config_cls: ClassVar[type[ReplaceConfig]] = ReplaceConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset(Slot)
    alters: ClassVar[frozenset[str]] = frozenset({"source", "revision", "options"})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model that this is not."""
        if self.on_load(request) == request:
            return "that is what the baseline loads, so nothing would be replaced"
        return None

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Name the replacement."""
        model = {} if self.config.model is None else {"model": self.config.model}
        return replace(
            request,
            source=self.config.source.rstrip("/"),
            revision=self.config.revision,
            options={**request.options, **model},
        )

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell what was loaded."""
        loaded = model.request
        return {
            "engaged": loaded.source == self.config.source.rstrip("/"),
            "source": loaded.source,
            "revision": loaded.revision,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `replace`."""
    register("replace", Replace)
