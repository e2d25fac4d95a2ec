"""Four-bit weights by torchao, and the scales that lose least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stabfw.errors import UnsupportedError
from torch.nn.functional import linear as multiply
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int4WeightOnlyConfig

from stabfw_accelerators.linears import require_groups

_SMALLEST = 1e-4


def require_sizes(linears: Mapping[str, torch.nn.Linear], group_size: int) -> None:
    """Refuse layers that the kernels cannot work on, before anything is changed.

    Raises:
        UnsupportedError: If `group_size` does not divide the width of a layer, or the number of
            its outputs does not suit the kernel for CPUs.
    """
    require_groups("awq", linears, group_size)
    for name, linear in linears.items():
        if linear.weight.device.type == "cpu" and linear.out_features % 16:
            raise UnsupportedError(
                f"awq: torchao's kernel for CPUs needs a multiple of 16 outputs, but {name} has "
                f"{linear.out_features}; leave that part out"
            )


@torch.inference_mode()
def search(weight: torch.Tensor, inputs: torch.Tensor, group_size: int, steps: int) -> torch.Tensor:
    """Find the scales of a layer's input channels (the paper's equations 4 and 5).

    Args:
        weight: The layer's weight [out, in].
        inputs: What the layer is given [tokens, in].
        group_size: Weights of a row that share scale and zero point.
        steps: How many exponents to try; the first is 0, which scales nothing.

    Returns:
        Scales [in] in float32, on the CPU.
    """
    inputs = inputs.to(weight.device).float()
    size = inputs.abs().mean(0)
    expected = multiply(inputs, weight.float())
    best, least = torch.ones_like(size), float("inf")
    for step in range(steps):
        scales = size.pow(step / steps).clamp(min=_SMALLEST)
        scales = scales / (scales.max() * scales.min()).sqrt()
        rounded = round_in_groups(weight.float() * scales, group_size) / scales
        error = float((multiply(inputs, rounded) - expected).square().mean())
        if error < least:
            best, least = scales, error
    return best.cpu()


def round_in_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Round to four bits between the extremes of each group, as `rounding` does.

    torchao's kernel for CPUs is too slow to search with, but for bfloat16.

    Args:
        weight: A weight [out, in] in float32.
        group_size: Weights of a row that share scale and zero point.
    """
    groups = weight.reshape(len(weight), -1, group_size)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-6)
    return (low + ((groups - low) / step).round() * step).reshape(weight.shape)


def rounding(group_size: int, device: torch.device) -> Any:
    """Tell torchao to round to nearest in groups of four bits, with the kernel of a device."""
    # Without the argument, torchao changes settings of the compiler for the whole process.
    if device.type == "cpu":
        return PrototypeInt4WeightOnlyConfig(group_size, set_inductor_config=False)
    return Int4WeightOnlyConfig(
        group_size, set_inductor_config=False, int4_packing_format="tile_packed_to_4d"
    )
