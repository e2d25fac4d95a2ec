"""Smoothing factors, and eight-bit weights and activations by torchao."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig

_SMALLEST = torch.finfo(torch.float32).eps


def factors(weight: torch.Tensor, largest: torch.Tensor, alpha: float) -> torch.Tensor:
    """Tell by what to divide each input channel (the paper's equation 4).

    Args:
        weight: The layer's weight [out, in].
        largest: Largest absolute input of each channel [in].
        alpha: Migration strength.

    Returns:
        Factors [in] in float32, on the CPU.
    """
    columns = weight.detach().float().abs().amax(0).cpu()
    return (largest + _SMALLEST) ** alpha / (columns + _SMALLEST) ** (1 - alpha)


def rounding() -> Any:
    """Tell torchao to round weights now and activations, per token, while it multiplies."""
    # Without the argument, torchao changes settings of the compiler for the whole process.
    return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
