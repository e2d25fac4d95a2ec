"""Accelerators `llm-int8` and `nf4`: the quantizers of bitsandbytes, applied while loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from stabfw.components import Accelerator, Artefact, LoadedModel, LoadRequest
from stabfw.registry import hookimpl

from stabfw_accelerators.quantizer import Q, Quantizer, QuantizerConfig


class BitsAndBytes(Quantizer[Q]):
    """Base of quantizers that transformers applies through bitsandbytes, layer by layer.

    The model in full precision is never in memory. The vision tower, the projector and the output
    projection stay as they are by default. Only run on the CPU for the tests; on CUDA the same
    code runs, with kernels of its own.
    """

    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes", "accelerate")
    alters: ClassVar[frozenset[str]] = frozenset({"options"})

    @abstractmethod
    def settings(self, dtype: str) -> Mapping[str, Any]:
        """Arguments of transformers' BitsAndBytesConfig.

        Args:
            dtype: What the model is loaded in.
        """

    def on_load(self, request: LoadRequest) -> LoadRequest:
        """Ask transformers to quantize."""
        # One pattern for the layers to skip, matched from the start of a dotted name.
        wanted = [r"model\." if self.config.vision else r"model\.(?:language_model|text_model)\."]
        wanted += ["lm_head"] if self.config.head else []
        quantization = {
            "quant_method": "bitsandbytes",
            "llm_int8_skip_modules": [f"(?!{'|'.join(wanted)}).*"],
            **self.settings(request.dtype),
        }
        # Without a device map, transformers would take a GPU whatever device was asked for.
        options = {"device_map": {"": request.device}, **request.options}
        return replace(request, options={**options, "quantization_config": quantization})

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Make the numbers of the quantized layers independent of the kind of CPU.

        Raises:
            UnsupportedError: If a layer could not be quantized.
        """
        from stabfw_accelerators.bitsandbytes.method import settle

        settle(model.module)

    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count what bitsandbytes holds."""
        from stabfw_accelerators.bitsandbytes.method import measure

        return measure(model.module, model.request.dtype)


class LlmInt8Config(QuantizerConfig):
    """Config of `llm-int8`."""

    threshold: float = Field(
        default=6.0,
        ge=0,
        description="Columns with an activation as large are not quantized; 0 quantizes all.",
    )


class LlmInt8(BitsAndBytes[LlmInt8Config]):
    """Multiplies in eight bits, but for columns of activations with outliers.

    Dettmers et al., 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale"
    (https://arxiv.org/abs/2208.07339), by the authors' own package. Weights have one scale per
    output channel, activations one per token; activations are cast to float16 first, whatever
    the model's dtype. Outliers are looked for in the whole batch, so an answer can depend on
    what else is in it.
    """

    config_cls: ClassVar[type[LlmInt8Config]] = LlmInt8Config
    name: ClassVar[str] = "llm-int8"
    bits = 8

    def settings(self, dtype: str) -> Mapping[str, Any]:
        """Eight bits, and the threshold."""
        return {"load_in_8bit": True, "llm_int8_threshold": self.config.threshold}


class Nf4Config(QuantizerConfig):
    """Config of `nf4`."""

    double_quant: bool = Field(
        default=False, description="Quantize the scales of the blocks in turn."
    )


class Nf4(BitsAndBytes[Nf4Config]):
    """Stores linear weights as one of sixteen quantiles of a normal distribution.

    Dettmers et al., 2023, "QLoRA: Efficient Finetuning of Quantized LLMs"
    (https://arxiv.org/abs/2305.14314), section 3, by the authors' own package: blocks of 64
    weights share a scale. Weights are restored for each multiplication, in the model's dtype.
    """

    config_cls: ClassVar[type[Nf4Config]] = Nf4Config
    name: ClassVar[str] = "nf4"
    bits = 4

    def settings(self, dtype: str) -> Mapping[str, Any]:
        """Four bits, computed in the model's dtype."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": self.config.double_quant,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer both."""
    register(LlmInt8.name, LlmInt8)
    register(Nf4.name, Nf4)
