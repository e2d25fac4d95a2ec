"""Accelerator `attention`: another attention back end, which should change no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

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


class AttentionConfig(AcceleratorConfig):
    """Config of `attention`."""

    implementation: Literal["eager", "sdpa"] = Field(
        default="eager", description="Attention back end, to be compared with the model's own."
    )


class Attention(Accelerator[AttentionConfig]):
    """Loads the model with another attention back end.

    Both compute the same function, so every answer that changes is an effect of rounding: a
    measure of how close to a tie the model's answers are.
    """

    config_cls: ClassVar[type[AttentionConfig]] = AttentionConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.ATTENTION})
    alters: ClassVar[frozenset[str]] = frozenset({"attention"})
    expects_identical: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _replaced: str | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model that is not loaded with this back end anyway."""
        if request.attention == self.config.implementation:
            return f"the model is loaded with {request.attention} attention anyway"
        return None

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Change the attention back end."""
        if request.attention != self.config.implementation:
            self._replaced = request.attention
        return replace(request, attention=self.config.implementation)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell which back end runs, and which one it replaced (None: the same, nothing changed)."""
        config: Any = model.module.config if model.module is not None else None
        running = config.get_text_config()._attn_implementation if config is not None else None
        return {
            "engaged": running == self.config.implementation and self._replaced is not None,
            "attention": running,
            "replaced": self._replaced,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `attention`."""
    register("attention", Attention)
