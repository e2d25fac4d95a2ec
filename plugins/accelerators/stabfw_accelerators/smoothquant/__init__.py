"""Accelerator `smoothquant`: eight-bit weights and activations that share the outliers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Fidelity, FitData, LoadedModel
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import CalibratedQuantizer, QuantizerConfig


class SmoothQuantConfig(QuantizerConfig):
    """Config of `smoothquant`."""

    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="How much of the outliers moves from the activations to the weights.",
    )


class SmoothQuant(CalibratedQuantizer[SmoothQuantConfig]):
    """Eight-bit weights and activations, each input channel divided by a smoothing factor.

    Xiao et al., 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
    Language Models" (https://arxiv.org/abs/2211.10438), section 4. Rounding and multiplication
    are torchao's: one scale per output channel, one per token while it runs.

    Adapted: every linear layer is smoothed, with a factor of its own that is taken back from its
    input at run time; the authors fold it into the layer norm before, so only layers behind one
    are smoothed.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[SmoothQuantConfig]] = SmoothQuantConfig
    name: ClassVar[str] = "smoothquant"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    bits = 8
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    def calibrate(self, model: LoadedModel, data: FitData) -> Mapping[str, Any]:
        """Find the smoothing factor of every input channel."""
        from stabfw_accelerators.calibration import largest_inputs
        from stabfw_accelerators.linears import chosen_linears
        from stabfw_accelerators.smoothquant.method import factors

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        largest = largest_inputs(model, linears, data)
        return {
            name: factors(linear.weight, largest[name], self.config.alpha)
            for name, linear in linears.items()
        }

    def quantize(self, model: LoadedModel, found: Mapping[str, Any]) -> None:
        """Smooth the weights and round them."""
        from stabfw_accelerators.linears import chosen_linears
        from stabfw_accelerators.scaled import quantize_scaled
        from stabfw_accelerators.smoothquant.method import rounding

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        for name, linear in linears.items():
            quantize_scaled(linear, rounding(), found[name])

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what torchao holds."""
        from stabfw_accelerators.linears import measure_tensors

        return measure_tensors(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `smoothquant`."""
    register(SmoothQuant.name, SmoothQuant)
