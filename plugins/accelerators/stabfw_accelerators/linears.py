"""Which linear layers a quantizer changes: the decoder's, unless asked for more."""

from __future__ import annotations

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
