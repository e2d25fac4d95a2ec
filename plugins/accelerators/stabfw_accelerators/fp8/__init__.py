"""Accelerator `fp8`: weights as eight-bit floating-point numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Artefact, LoadedModel, LoadRequest, ModelInfo
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import Quantizer, QuantizerConfig


class Fp8Config(QuantizerConfig):
    """Config of `fp8`."""

    activations: bool = Field(
        default=False,
        description="Round the activations too, one scale per token, and multiply in eight bits.",
    )


class Fp8(Quantizer[Fp8Config]):
    """Weights in e4m3 with one scale per output channel, by torchao.

    Micikevicius et al., 2022, "FP8 Formats for Deep Learning" (https://arxiv.org/abs/2209.05433).
    Weights are restored for each multiplication, unless `activations` is set.

    Only run on the CPU, where `activations` is not supported: **that code has not been run**.
    """

    config_cls: ClassVar[type[Fp8Config]] = Fp8Config
    name: ClassVar[str] = "fp8"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    bits = 8

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy; with `activations`, in bfloat16 on CUDA only."""
        if self.config.activations and not request.device.startswith("cuda"):
            return f"a {request.device} cannot multiply in fp8: leave out `activations`"
        if self.config.activations and request.dtype != "bfloat16":
            return "with `activations`, torchao computes in bfloat16: load the model in it"
        return super().supports(info, request)

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Quantize the linear layers in place.

        Raises:
            UnsupportedError: If the GPU cannot multiply in fp8.
        """
        from stabfw_accelerators.fp8.method import quantize
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        assert model.module is not None, "chosen_linears refuses models without a module"
        quantize(model.module, linears, self.config.activations)

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what torchao holds."""
        from stabfw_accelerators.linears import measure_tensors

        return measure_tensors(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `fp8`."""
    register(Fp8.name, Fp8)
