"""What flows into linear layers while a model answers calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from stabfw.components import FitData, GenerationOptions, LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError

See = Callable[[str, torch.Tensor], None]


def observe(
    model: LoadedModel,
    linears: Mapping[str, torch.nn.Linear],
    data: FitData,
    see: See,
) -> None:
    """Prefill each prompt alone, so that nothing is padded, and show what the layers are given.

    Args:
        model: The model; it is left as it was.
        linears: The layers by dotted name.
        data: What is asked.
        see: Called with a layer's name and its inputs [tokens, width], once for each time that
            the layer is used.

    Raises:
        UnsupportedError: If a layer is not used by any of the prompts.
    """
    unused = set(linears)

    def seen(name: str) -> Any:
        def hook(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            unused.discard(name)
            see(name, args[0].detach().reshape(-1, args[0].shape[-1]))

        return hook

    with Patch() as patch:
        for name, linear in linears.items():
            patch.callback(linear.register_forward_pre_hook(seen(name)).remove)
        for done, prompt in enumerate(data.prompts, 1):
            model.generate(model.encode([prompt]), GenerationOptions(max_new_tokens=1))
            data.progress(done, len(data.prompts), {})
    if unused:
        raise UnsupportedError(
            f"calibration: {len(unused)} layers saw no data, such as {min(unused)}; calibrate on "
            "questions with pictures, and leave parts out that the model does not use"
        )


def sample_inputs(
    model: LoadedModel,
    linears: Mapping[str, torch.nn.Linear],
    data: FitData,
    tokens: int,
) -> dict[str, torch.Tensor]:
    """Keep what the layers are given, of tokens at even distances.

    Args:
        model: The model.
        linears: The layers by dotted name.
        data: What is asked.
        tokens: How many tokens to keep for each layer, shared evenly by the prompts.

    Returns:
        Inputs [tokens, width] of each layer by its name, on the CPU.
    """
    share = -(-tokens // len(data.prompts))
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in linears}

    def see(name: str, inputs: torch.Tensor) -> None:
        places = torch.linspace(0, len(inputs) - 1, min(share, len(inputs))).round().long()
        kept[name].append(inputs[places.to(inputs.device)].cpu())

    observe(model, linears, data, see)
    return {name: torch.cat(rows) for name, rows in kept.items()}


def largest_inputs(
    model: LoadedModel, linears: Mapping[str, torch.nn.Linear], data: FitData
) -> dict[str, torch.Tensor]:
    """Find the largest absolute input of each channel.

    Args:
        model: The model.
        linears: The layers by dotted name.
        data: What is asked.

    Returns:
        Sizes [width] of each layer by its name, in float32 on the CPU.
    """
    largest: dict[str, torch.Tensor] = {}

    def see(name: str, inputs: torch.Tensor) -> None:
        found = inputs.float().abs().amax(0).cpu()
        largest[name] = torch.maximum(found, largest.get(name, found))

    observe(model, linears, data, see)
    return largest
