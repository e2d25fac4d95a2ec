"""Quantize linear layers with torchao."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_


def quantize(root: torch.nn.Module, linears: Mapping[str, torch.nn.Linear]) -> None:
    """Quantize layers in place.

    Args:
        root: The module that holds them.
        linears: The layers by dotted name.
    """
    # Without this, torchao changes settings of the compiler for the whole process.
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    quantize_(root, config, filter_fn=lambda _, name: name in linears)


def measure(root: torch.nn.Module | None) -> tuple[int, int, int]:
    """Count the quantized layers of a model, and their bytes before and after.

    Returns:
        Layers; bytes of their weights in the dtype they are computed in; bytes that the integer
        weights and their scales take now.
    """
    modules = root.modules() if root is not None else ()
    linears = [module for module in modules if isinstance(module, torch.nn.Linear)]
    weights: list[Any] = [x.weight for x in linears if hasattr(x.weight, "__tensor_flatten__")]
    before = sum(weight.numel() * weight.dtype.itemsize for weight in weights)
    return len(weights), before, sum(map(_stored, weights))


def _stored(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.nbytes)
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored(getattr(tensor, name)) for name in names)
