"""Accelerator `int8`: weights rounded to eight bits, one scale per output channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.registry import hookimpl


class Int8Config(AcceleratorConfig):
    """Config of `int8`."""

    vision: bool = Field(default=False, description="Quantize the vision tower and projector too.")
    head: bool = Field(default=False, description="Quantize the output projection too.")


class Int8(Accelerator[Int8Config]):
    """Weight-only int8 quantization by torchao (`Int8WeightOnlyConfig`).

    Symmetric rounding to nearest with one scale per output channel; activations keep their
    dtype. Without `torch.compile` the memory shrinks, but little gets faster. The vision tower,
    the projector and the output projection stay as they are by default.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[Int8Config]] = Int8Config
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.WEIGHTS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy, where the package `torchao` is installed."""
        if find_spec("torchao") is None:
            return 'the package torchao is not installed: pip install "stabfw[int8]"'
        if not info.has_anatomy:
            return f"which layers of a {info.family} model are its decoder is not known"
        return None

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Quantize the linear layers in place."""
        from stabfw_accelerators.int8.method import quantize
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        assert model.module is not None, "chosen_linears refuses models without a module"
        quantize(model.module, linears)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many layers of the loaded model are quantized, and their bytes."""
        from stabfw_accelerators.int8.method import measure

        layers, before, after = measure(model.module)
        return {
            "engaged": layers > 0,
            "bits": 8,
            "quantized_layers": layers,
            "bytes_before": before,
            "bytes_after": after,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `int8`."""
    register("int8", Int8)
