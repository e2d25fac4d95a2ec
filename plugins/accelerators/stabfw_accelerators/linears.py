"""The linear layers that a quantizer changes: the decoder's, unless asked for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stabfw.components import LoadedModel
from stabfw.errors import UnsupportedError


def chosen_linears(model: LoadedModel, *, vision: bool, head: bool) -> dict[str, torch.nn.Linear]:
    """Find the linear layers to quantize.

    Args:
        model: A model with an anatomy.
        vision: Include the vision tower and the projector.
        head: Include the output projection.

    Returns:
        The layers by their dotted names below `model.module`.

    Raises:
        UnsupportedError: If the model has no anatomy, nothing to quantize, or weights that are not
            in memory.
    """
    if model.module is None or model.anatomy is None:
        raise UnsupportedError(f"quantization: {model.info.family} states no anatomy")
    parts = [model.anatomy.decoder]
    if vision:
        parts += [model.module.get_submodule(name) for name in model.anatomy.vision_parts]
    if head:
        parts.append(model.module.get_submodule(model.anatomy.head))
    wanted = {id(module) for part in parts for module in part.modules()}
    found = {
        name: module
        for name, module in model.module.named_modules()
        if type(module) is torch.nn.Linear and id(module) in wanted
    }
    if any(module.weight.is_meta for module in found.values()):
        raise UnsupportedError(
            "quantization: the device_map leaves some of these layers on the disk"
        )
    if not found:
        raise UnsupportedError(f"quantization: {model.info.family} has no linear layers left")
    return found


def require_groups(who: str, linears: Mapping[str, torch.nn.Linear], group_size: int) -> None:
    """Refuse layers whose inputs cannot be divided into groups, before anything is changed.

    Args:
        who: The quantizer, for the message.
        linears: The layers by dotted name.
        group_size: Weights of a row that share scale and zero point.

    Raises:
        UnsupportedError: If `group_size` does not divide the width of a layer.
    """
    for name, linear in linears.items():
        if linear.in_features % group_size:
            raise UnsupportedError(
                f"{who}: group_size {group_size} does not divide the {linear.in_features} inputs "
                f"of {name}; choose one that does"
            )


def measure_tensors(root: torch.nn.Module | None) -> tuple[int, int, int]:
    """Count the layers whose weight is a tensor subclass, as torchao's are.

    Returns:
        Layers; bytes of their weights in the dtype they are computed in; bytes of the plain
        tensors that they consist of now, scales included.
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
