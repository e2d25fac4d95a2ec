"""Quantize a layer whose input channels are scaled first, with torchao."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization import quantize_


@torch.no_grad()
def quantize_scaled(layer: torch.nn.Linear, config: Any, scales: torch.Tensor) -> None:
    """Quantize a layer in place, so that in exact arithmetic its output would stay the same.

    Args:
        layer: The layer; its bias stays.
        config: torchao's config of the quantization.
        scales: Scales [in] by which the weight is multiplied before it is rounded, and the
            layer's input divided when it is used.
    """
    scales = scales.to(layer.weight.device, layer.weight.dtype)
    # A new parameter: an output projection may share its weight with the embedding.
    layer.weight = torch.nn.Parameter(layer.weight * scales, requires_grad=False)
    quantize_(layer, config)
    weight: Any = layer.weight
    weight.act_pre_scale = 1 / scales
