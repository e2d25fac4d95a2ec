"""Quantize linear layers to fp8 with torchao."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from stabfw.errors import UnsupportedError
from torchao.quantization import (
    Float8DynamicActivationFloat8WeightConfig,
    Float8WeightOnlyConfig,
    PerRow,
    quantize_,
)

#: Compute capability from which GPUs multiply in fp8.
_ADA = (8, 9)


def quantize(
    root: torch.nn.Module, linears: Mapping[str, torch.nn.Linear], activations: bool
) -> None:
    """Quantize layers in place.

    Args:
        root: The module that holds them.
        linears: The layers by dotted name.
        activations: Whether to round the activations too.

    Raises:
        UnsupportedError: If the GPU cannot multiply in fp8.
    """
    # Without the argument, torchao changes settings of the compiler for the whole process.
    config: object = Float8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)
    if activations:
        device = next(iter(linears.values())).weight.device
        if (capability := torch.cuda.get_device_capability(device)) < _ADA:
            raise UnsupportedError(
                f"fp8: the GPU has compute capability {'.'.join(map(str, capability))} and cannot "
                "multiply in fp8, which takes 8.9; leave out `activations`"
            )
        config = Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(), set_inductor_config=False
        )
    quantize_(root, config, filter_fn=lambda _, name: name in linears)
