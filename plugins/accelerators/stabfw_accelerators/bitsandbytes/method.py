"""What is done to the layers that bitsandbytes quantized, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from stabfw.errors import UnsupportedError


def settle(root: torch.nn.Module | None) -> None:
    """Make the layers' numbers independent of the kind of CPU, and their scales known to digests.

    Where a CPU multiplies in bfloat16, bitsandbytes would do so whatever dtype was asked for, and
    only with sizes that suit its kernel.

    Args:
        root: The model's module, before its first use.

    Raises:
        UnsupportedError: If a layer kept its weight, which happens to an output projection that
            shares it with the input embedding.
    """
    for name, layer in _layers(root):
        if layer.weight.is_floating_point():
            raise UnsupportedError(
                f"bitsandbytes: {name} shares its weight with another layer, so it cannot be "
                "quantized; leave out `head`"
            )
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
        for number, scale in enumerate(_scales(layer)):
            layer.register_buffer(f"scale_{number}", scale, persistent=False)


def measure(root: torch.nn.Module | None, dtype: str) -> tuple[int, int, int]:
    """Count the quantized layers of a model, and their bytes before and after.

    Args:
        root: The model's module.
        dtype: What the model was loaded in.

    Returns:
        Layers; bytes of their weights in that dtype; bytes that packed weights and scales take.
    """
    layers = [layer for _, layer in _layers(root)]
    size = getattr(torch, dtype).itemsize
    before = sum(layer.in_features * layer.out_features * size for layer in layers)
    after = sum(t.nbytes for layer in layers for t in (layer.weight, *_scales(layer)))
    return len(layers), before, after


def _layers(root: torch.nn.Module | None) -> Iterator[tuple[str, Any]]:
    for name, module in root.named_modules() if root is not None else ():
        if isinstance(module, Linear4bit | Linear8bitLt):
            yield name, module


def _scales(layer: Any) -> list[torch.Tensor]:
    if isinstance(layer, Linear8bitLt):
        # The first use moves it from the weight to the layer's state.
        return [layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB]
    state = layer.weight.quant_state
    return [state.absmax, state.offset, state.state2.absmax] if state.nested else [state.absmax]
