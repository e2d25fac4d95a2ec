"""Replace linear layers by those of the package `hqq`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from stabfw.errors import UnsupportedError

from stabfw_accelerators.linears import require_groups


def quantize(
    root: torch.nn.Module, linears: Mapping[str, torch.nn.Linear], bits: int, group_size: int
) -> None:
    """Quantize layers in place; the original weights are freed as it goes.

    Args:
        root: The module that holds them.
        linears: The layers by dotted name.
        bits: Bits per weight.
        group_size: Weights of a row that share scale and zero point.

    Raises:
        UnsupportedError: If `group_size` does not suit a layer. Nothing has been changed then.
    """
    require_packable("hqq", linears, bits, group_size)
    for name, linear in linears.items():
        quantized = HQQLinear(
            linear,
            quant_config=BaseQuantizeConfig(nbits=bits, group_size=group_size, axis=1),
            compute_dtype=linear.weight.dtype,
            device=str(linear.weight.device),
        )
        settle(root, name, quantized)


def require_packable(
    who: str, linears: Mapping[str, torch.nn.Linear], bits: int, group_size: int
) -> None:
    """Refuse layers that hqq cannot store.

    Args:
        who: The quantizer, for the message.
        linears: The layers by dotted name.
        bits: Bits per weight.
        group_size: Weights of a row that share scale and zero point.

    Raises:
        UnsupportedError: If `group_size` does not divide the width of a layer, or the number of
            groups cannot be packed.
    """
    require_groups(who, linears, group_size)
    together = packed_together(bits)
    for name, linear in linears.items():
        if (groups := linear.weight.numel() // group_size) % together:
            raise UnsupportedError(
                f"{who}: {name} has {groups} groups of {group_size}, but hqq packs {together} "
                f"numbers of {bits} bits together; choose a smaller group_size"
            )


def packed_together(bits: int) -> int:
    """How many groups hqq can only store together; three bits are filled up instead."""
    return 1 if bits == 3 else 8 // bits


def settle(root: torch.nn.Module, name: str, layer: HQQLinear) -> None:
    """Put a layer in the place of another, its scales known to digests of the weights.

    Args:
        root: The module that holds the other.
        name: Its dotted name there.
        layer: The new one.
    """
    # hqq keeps these in a plain dict.
    for part in ("scale", "zero"):
        layer.register_buffer(part, layer.meta[part], persistent=False)
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, layer)


def measure(root: torch.nn.Module | None) -> tuple[int, int, int]:
    """Count the quantized layers of a model, and their bytes before and after.

    Returns:
        Layers; bytes of their weights in the dtype they are computed in; bytes that packed
        weights, scales and zero points take now.
    """
    layers = [m for m in root.modules() if isinstance(m, HQQLinear)] if root is not None else []
    before = sum(layer.meta["shape"].numel() * layer.compute_dtype.itemsize for layer in layers)
    after = sum(
        tensor.nbytes
        for layer in layers
        for tensor in (layer.W_q, layer.meta["scale"], layer.meta["zero"])
    )
    return len(layers), before, after
