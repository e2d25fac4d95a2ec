"""How long a GPU would be busy, from sizes alone: an estimate to plan with, not a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from stabfw.components import Architecture, Model, Outline
from stabfw.components.costs import BYTES, Convention, prefill
from stabfw.components.schedules import keep
from stabfw.errors import StabfwError
from stabfw.plan.cells import Cell


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most, as its maker states it.

    Attributes:
        name: Its full name.
        flops: Dense operations a second in bfloat16.
        bandwidth: Bytes a second from its memory.
    """

    name: str
    flops: float
    bandwidth: float


#: From NVIDIA's data sheets of the A100 (80 GB SXM) and the H100 (SXM).
GPUS: Mapping[str, Gpu] = {
    "a100": Gpu("A100 80 GB", 312e12, 2.039e12),
    "h100": Gpu("H100 SXM", 989e12, 3.35e12),
}
#: Share of the operations that a prefill in plain PyTorch is taken to reach.
EFFICIENCY = 0.4


class Estimator:
    """Tells the hours of cells whose models and data sets state their sizes."""

    def __init__(self, gpu: Gpu, batch_size: int) -> None:
        self._gpu = gpu
        self._batch_size = batch_size
        self._seconds = cache(self._of_instance)

    def hours(self, cell: Cell, model: Model[Any]) -> float | None:
        """Hours of a cell, an accelerated one taken for no faster; None if sizes are not known."""
        outline = cell.dataset.outline
        if outline is None:
            return None
        seconds = self._seconds(model, outline, cell.options.max_new_tokens)
        return None if seconds is None else cell.dataset.size * seconds / 3600

    def _of_instance(self, model: Model[Any], outline: Outline, longest: int) -> float | None:
        try:
            architecture = model.architecture()
            if architecture is None:
                return None
            images = [architecture.image(width, height) for width, height in outline.images]
            visual = sum(image.visual_tokens for image in images)
            schedule = keep(architecture.decoder.layers, visual, {})
            flops = prefill(architecture, images, outline.text_tokens, schedule, "last")
        except StabfwError:
            return None
        operations = sum(part.counted(Convention.MATMUL) for part in flops.values())
        reading = self._bytes_of_step(architecture, visual + outline.text_tokens)
        steps = min(outline.answer_tokens, longest) - 1
        return operations / (self._gpu.flops * EFFICIENCY) + steps * reading / self._gpu.bandwidth

    def _bytes_of_step(self, architecture: Architecture, tokens: int) -> float:
        """What is read for one token of one instance: weights by the whole batch, its cache."""
        weights = sum(architecture.parameters.values()) * BYTES[architecture.dtype]
        cache_bytes = architecture.decoder.cache_bytes(architecture.dtype)
        return weights / self._batch_size + tokens * architecture.decoder.layers * cache_bytes
