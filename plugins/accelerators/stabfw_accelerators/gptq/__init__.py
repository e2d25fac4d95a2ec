"""Accelerator `gptq`: weights rounded one column after the other, each making up for the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import Accelerator, Fidelity, FitData, LoadedModel
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import CalibratedQuantizer, QuantizerConfig


class GptqConfig(QuantizerConfig):
    """Config of `gptq`."""

    bits: Literal[8, 4, 3, 2] = Field(default=4, description="Bits per weight.")
    group_size: int = Field(
        default=128,
        ge=8,
        multiple_of=8,
        description="Weights of a row that share scale and zero point.",
    )
    damping: float = Field(
        default=0.01,
        gt=0,
        description="Added to the Hessian's diagonal, as a share of its mean.",
    )


class Gptq(CalibratedQuantizer[GptqConfig]):
    """Second-order rounding after Frantar et al.

    Frantar et al., 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers" (https://arxiv.org/abs/2210.17323), algorithm 1: columns are rounded in their
    order, and what is lost is spread over those that are left, by the inverse Hessian of the
    layer's inputs. Layer by layer: each sees what the quantized ones before it put out.

    Given the same weights and inputs, the integers are those of the authors' code
    (IST-DASLab/gptq at 2d65066) and of the library gptqmodel. In groups of less than 128 both
    would by default find scales before the columns of a block of 128 have made up for their
    rounding; here as in the paper, the scales of a group are those of its most current weights.
    Columns keep their order, and all linear layers of a decoder layer are rounded on one pass.

    Weights are stored and restored by the package hqq, so memory shrinks but nothing gets faster.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[GptqConfig]] = GptqConfig
    name: ClassVar[str] = "gptq"
    packages: ClassVar[tuple[str, ...]] = ("hqq",)
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL
    behaviour_version: ClassVar[int] = 2

    def __init__(self, config: GptqConfig) -> None:
        super().__init__(config)
        self.bits = config.bits

    def calibrate(self, model: LoadedModel, data: FitData) -> Mapping[str, Any]:
        """Quantize the decoder's layers one after the other, and keep what they are stored as."""
        from stabfw_accelerators.gptq.method import quantize_in_turn
        from stabfw_accelerators.hqq.method import require_packable
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        require_packable(self.name, linears, self.config.bits, self.config.group_size)
        return quantize_in_turn(
            model, linears, data, self.config.bits, self.config.group_size, self.config.damping
        )

    def quantize(self, model: LoadedModel, found: Mapping[str, Any]) -> None:
        """Replace the linear layers by what was found."""
        from stabfw_accelerators.gptq.method import put_in_place
        from stabfw_accelerators.linears import chosen_linears

        linears = chosen_linears(model, vision=self.config.vision, head=self.config.head)
        assert model.module is not None, "chosen_linears refuses models without a module"
        put_in_place(model.module, linears, found, self.config.bits, self.config.group_size)

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what hqq holds."""
        from stabfw_accelerators.hqq.method import measure

        return measure(model.module)


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `gptq`."""
    register(Gptq.name, Gptq)
