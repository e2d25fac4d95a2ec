"""What the tests of token reductions do with the embedded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from stabfw.components import Accelerator, Artefact, Prompt
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Reduction, Select, reduce_visual_tokens


def attached(
    accelerator: Accelerator[Any],
    model: Any,
    run: Callable[[], Any],
    artefact: Artefact | None = None,
) -> Any:
    """Return what a call gives while an accelerator is attached."""
    with Patch() as patch:
        accelerator.attach(model, artefact, patch)
        return run()


def require_most_attended(
    model: Any, asked: Sequence[Prompt], select: Select, before: int, attending: int
) -> None:
    """Require that a quarter is kept: what the last token attends to most.

    Args:
        model: The embedded model.
        asked: What it is asked.
        select: The method, with a budget of a quarter.
        before: The layer before which tokens are dropped.
        attending: The layer whose attention, as the model itself computes it, has to decide.
    """
    chosen: list[torch.Tensor] = []

    def spy(context: Context) -> Reduction:
        chosen.append(select(context).keep)
        return Reduction(chosen[-1])

    encoded = model.encode(asked)
    with Patch() as patch, torch.inference_mode():
        reduce_visual_tokens(model, {before: spy}, patch)
        model.module(**encoded.inputs)
    model.token_depths = ()
    model.module.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            layers = model.module(**encoded.inputs, output_attentions=True).attentions
    finally:
        model.module.set_attn_implementation("sdpa")
    assert len(chosen) == len(asked)
    for row, keep in enumerate(chosen):
        visual = encoded.inputs["input_ids"][row] == model.anatomy.image_token_id
        scores = layers[attending][row, :, -1, visual].mean(0)
        assert keep.tolist() == sorted(scores.topk(16).indices.tolist())
