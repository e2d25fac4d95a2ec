"""Accelerator `awq`: four-bit weights, scaled by the activations that they meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import Accelerator, Fidelity, FitData, LoadedModel, LoadRequest, ModelInfo
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import CalibratedQuantizer, QuantizerConfig


class AwqConfig(QuantizerConfig):
    """Config of `awq`."""

    group_size: Literal[128, 64, 32] = Field(
        default=128, description="Weights of a row that share scale and zero point."
    )
    steps: int = Field(
        default=20, ge=1, description="Exponents between 0 and 1 that are tried for each layer."
    )
    tokens: int = Field(
        default=512, ge=1, description="Tokens of the calibration data that they are tried on."
    )


class Awq(CalibratedQuantizer[AwqConfig]):
    """Activation-aware weight quantization to four bits.

    Lin et al., 2024, "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and
    Acceleration" (https://arxiv.org/abs/2306.00978), section 3.2: each input channel is scaled by
    a power of its mean activation before the weights are rounded; the exponent is the one whose
    output is closest. Weights are stored and multiplied by torchao.

    Adapted: every layer has scales of its own, which are taken back from its input at run time;
    the authors fold them into the layer before, so layers with one input share theirs. The error
    is measured at the layer, not behind its block, and weights are not clipped.

    Only run on the CPU; the code for CUDA, with torchao's kernel for it, has not been run.
    """

    config_cls: ClassVar[type[AwqConfig]] = AwqConfig
    name: ClassVar[str] = "awq"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    bits = 4
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy on a CPU, and in bfloat16 on CUDA."""
        if request.device.startswith("cuda") and request.dtype != "bfloat16":
            return "its kernel for CUDA computes in bfloat16: load the model in `dtype: bfloat16`"
        if not request.device.startswith(("cpu", "cuda")):
            return f"torchao has no four-bit kernel for the device {request.device}"
        return super().supports(info, request)

    def calibrate(self, model: LoadedModel, data: FitData) -> Mapping[str, Any]:
        """Find the scales of every input channel."""
        from stabfw_accelerators.awq.method import require_sizes, search
        from stabfw_accelerators.calibration import sample_inputs
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        require_sizes(linears, self.config.group_size)
        inputs = sample_inputs(model, linears, data, self.config.tokens)
        return {
            name: search(linear.weight, inputs.pop(name), self.config.group_size, self.config.steps)
            for name, linear in linears.items()
        }

    def quantize(self, model: LoadedModel, found: Mapping[str, Any]) -> None:
        """Scale the weights and round them."""
        from stabfw_accelerators.awq.method import rounding
        from stabfw_accelerators.linears import chosen_linears
        from stabfw_accelerators.scaled import quantize_scaled

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        for name, linear in linears.items():
            config = rounding(self.config.group_size, linear.weight.device)
            quantize_scaled(linear, config, found[name])

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what torchao holds."""
        from stabfw_accelerators.linears import measure_tensors

        return measure_tensors(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `awq`."""
    register(Awq.name, Awq)
