"""Count the operations of a prefill while it runs, without changing a bit of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stabfw.components import LoadedModel


@contextmanager
def counted_prefill(model: LoadedModel) -> Iterator[dict[str, Any]]:
    """Count linear and convolution layers until a batch's first forward pass is over.

    Layers are counted by their sizes when they are called, so that those which a quantizer
    replaced, whose kernels a counter of operators does not know, count for what they stand for.
    It is the `linear` convention of `stabfw.components.costs` with the logits of the last token,
    and includes padding. Operators would have to be intercepted to count more, which can change
    the kernels that are chosen and with them the last bits of an answer.

    Yields:
        `linear_flops`, for each prompt of the batch, and `linear_layers`, how many layers they are
        from: fewer than the baseline's if some cannot be counted. Filled at the end; it stays
        empty for a model without a torch module, and says so if a part of it is compiled.
    """
    found: dict[str, Any] = {}
    whole = model.module
    if whole is None:
        yield found
        return
    if any(map(_compiled, whole.modules())):
        found["linear_flops"] = "not counted: the model is compiled"
        yield found
        return
    from torch.nn.modules.module import register_module_forward_hook

    flops = 0
    layers: set[Any] = set()

    def count(module: Any, _: Any, output: Any) -> None:
        nonlocal flops
        if found:
            return
        if module is whole:
            if model.batch is not None and layers:
                found["linear_flops"] = round(flops / len(model.batch.instance_ids))
                found["linear_layers"] = len(layers)
        elif cost := _cost(module, output):
            flops += cost
            layers.add(module)

    handle = register_module_forward_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def _cost(module: Any, output: Any) -> int:
    import torch

    if not isinstance(output, torch.Tensor):
        return 0
    if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
        return 2 * output.numel() * module.weight[0].numel()
    # Quantized layers share no base class, but all state the width of their input. One that
    # wraps another layer leaves it to that one.
    inner = (part for part in module.modules() if part is not module)
    if not hasattr(module, "in_features") or any(hasattr(part, "in_features") for part in inner):
        return 0
    return 2 * output.numel() * int(module.in_features)


def _compiled(module: Any) -> bool:
    return (
        module._compiled_call_impl is not None
        or hasattr(module, "_orig_mod")
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )
