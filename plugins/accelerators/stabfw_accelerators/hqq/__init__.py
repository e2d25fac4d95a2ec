"""Accelerator `hqq`: half-quadratic quantization of the weights, without calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

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


class HqqConfig(AcceleratorConfig):
    """Config of `hqq`."""

    bits: Literal[8, 4, 3, 2] = Field(default=4, description="Bits per weight.")
    group_size: int = Field(
        default=64,
        ge=8,
        multiple_of=8,
        description="Weights of a row that share scale and zero point.",
    )
    vision: bool = Field(default=False, description="Quantize the vision tower and projector too.")
    head: bool = Field(default=False, description="Quantize the output projection too.")
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="Load the model in this dtype; a matched baseline is loaded in it as well.",
    )


class Hqq(Accelerator[HqqConfig]):
    """Stores linear weights in a few bits and restores them for each multiplication.

    Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models"
    (https://mobiusml.github.io/hqq_blog/), by the authors' own package, with its default settings:
    groups along the input dimension, zero points optimized. Weights are dequantized by plain
    PyTorch code, so the numbers are right and the memory shrinks, but nothing gets faster.
    The vision tower, the projector and the output projection stay as they are by default.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[HqqConfig]] = HqqConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.WEIGHTS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy, where the package `hqq` is installed.

        Whether the groups fit is known only when the model is loaded.
        """
        if find_spec("hqq") is None:
            return 'the package hqq is not installed: pip install "stabfw[hqq]"'
        if not info.has_anatomy:
            return f"which layers of a {info.family} model are its decoder is not known"
        return None

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

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many layers of the loaded model are quantized, and their bytes."""
        from stabfw_accelerators.hqq.method import measure

        layers, before, after = measure(model.module)
        return {
            "engaged": layers > 0,
            "bits": self.config.bits,
            "quantized_layers": layers,
            "bytes_before": before,
            "bytes_after": after,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `hqq`."""
    register("hqq", Hqq)
