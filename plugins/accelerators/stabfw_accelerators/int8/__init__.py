"""Accelerator `int8`: weights rounded to eight bits, one scale per output channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from stabfw.components import Accelerator, Artefact, LoadedModel
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import Quantizer, QuantizerConfig


class Int8Config(QuantizerConfig):
    """Config of `int8`."""


class Int8(Quantizer[Int8Config]):
    """Weight-only int8 quantization by torchao (`Int8WeightOnlyConfig`).

    Symmetric rounding to nearest with one scale per output channel; activations keep their
    dtype. Without `torch.compile` the memory shrinks, but little gets faster. The vision tower,
    the projector and the output projection stay as they are by default.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[Int8Config]] = Int8Config
    name: ClassVar[str] = "int8"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    bits = 8

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Quantize the linear layers in place."""
        from stabfw_accelerators.int8.method import quantize
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        assert model.module is not None, "chosen_linears refuses models without a module"
        quantize(model.module, linears)

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what torchao holds."""
        from stabfw_accelerators.linears import measure_tensors

        return measure_tensors(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `int8`."""
    register(Int8.name, Int8)
