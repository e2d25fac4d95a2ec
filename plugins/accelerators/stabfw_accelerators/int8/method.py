"""Quantize linear layers with torchao."""

from __future__ import annotations

from collections.abc import Mapping

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
