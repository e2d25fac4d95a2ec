"""Accelerator `hqq`: half-quadratic quantization of the weights, without calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import Accelerator, Artefact, LoadedModel, LoadRequest
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import Quantizer, QuantizerConfig


class HqqConfig(QuantizerConfig):
    """Config of `hqq`."""

    bits: Literal[8, 4, 3, 2] = Field(default=4, description="Bits per weight.")
    group_size: int = Field(
        default=64,
        ge=8,
        multiple_of=8,
        description="Weights of a row that share scale and zero point.",
    )
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="Load the model in this dtype; a matched baseline is loaded in it as well.",
    )


class Hqq(Quantizer[HqqConfig]):
    """Stores linear weights in a few bits and restores them for each multiplication.

    Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models"
    (https://mobiusml.github.io/hqq_blog/), by the authors' own package, with its default settings:
    groups along the input dimension, zero points optimized. Weights are dequantized by plain
    PyTorch code, so the numbers are right and the memory shrinks, but nothing gets faster.
    The vision tower, the projector and the output projection stay as they are by default.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[HqqConfig]] = HqqConfig
    name: ClassVar[str] = "hqq"
    packages: ClassVar[tuple[str, ...]] = ("hqq",)

    def __init__(self, config: HqqConfig) -> None:
        super().__init__(config)
        self.bits = config.bits

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Change the dtype, if `compute_dtype` is given."""
        return replace(request, dtype=self.config.compute_dtype or request.dtype)

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Replace the linear layers by quantized ones.

        Raises:
            UnsupportedError: If `group_size` does not divide the width of a layer.
        """
        from stabfw_accelerators.hqq.method import quantize
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        assert model.module is not None, "chosen_linears refuses models without a module"
        quantize(model.module, linears, self.config.bits, self.config.group_size)

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what hqq holds."""
        from stabfw_accelerators.hqq.method import measure

        return measure(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `hqq`."""
    register(Hqq.name, Hqq)
