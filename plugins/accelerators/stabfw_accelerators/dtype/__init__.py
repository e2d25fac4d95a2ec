"""Accelerator `dtype`: the whole model in another floating-point type."""

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


class DtypeConfig(AcceleratorConfig):
    """Config of `dtype`."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16", description="What to load the model in, to be compared with its own."
    )


class Dtype(Accelerator[DtypeConfig]):
    """Loads the model in another floating-point type and computes in it.

    Not lossless: bfloat16 keeps 8 significant bits of every weight and activation, float16 keeps
    11 and overflows beyond 65504.
    """

    config_cls: ClassVar[type[DtypeConfig]] = DtypeConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.WEIGHTS})
    alters: ClassVar[frozenset[str]] = frozenset({"dtype"})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _replaced: str | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model in memory that is not loaded in this type anyway."""
        if request.device == "remote":
            return "a model that is served elsewhere has the type that it has"
        if request.dtype == self.config.dtype:
            return f"the model is loaded in {request.dtype} anyway"
        return None

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Change the type."""
        if request.dtype != self.config.dtype:
            self._replaced = request.dtype
        return replace(request, dtype=self.config.dtype)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell which type runs, which one it replaced (None: the same), and the weights' bytes."""
        report: dict[str, Any] = {"engaged": False, "replaced": self._replaced}
        if model.module is None:
            return report
        import torch

        weights = [p for p in model.module.parameters() if p.is_floating_point()]
        running = str(model.module.dtype).removeprefix("torch.")
        report["dtype"] = running
        report["engaged"] = running == self.config.dtype and self._replaced is not None
        report["bytes_after"] = sum(weight.nbytes for weight in weights)
        if self._replaced is not None:
            size = getattr(torch, self._replaced).itemsize
            report["bytes_before"] = sum(weight.numel() * size for weight in weights)
        return report


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `dtype`."""
    register("dtype", Dtype)
