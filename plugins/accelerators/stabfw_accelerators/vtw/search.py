"""The search for the layer at which VTW withdraws the visual tokens."""

from __future__ import annotations

import math

from stabfw.components import FitData, GenerationOptions, LoadedModel
from stabfw.components.patch import Patch
from stabfw.components.reduction import reduce_visual_tokens
from stabfw.errors import UnsupportedError

from stabfw_accelerators.vtw.method import nothing

#: More than any vocabulary holds: the whole distribution of the first token.
_ALL = 10_000_000
_FIRST = GenerationOptions(max_new_tokens=1, top_tokens=_ALL)
_BATCH = 8


def search(model: LoadedModel, data: FitData, divergence: float) -> tuple[int, list[float]]:
    """Find the first layer at which the first token's distribution stays as it is.

    Args:
        model: The model.
        data: The prompts on which it is looked for.
        divergence: The mean Kullback-Leibler divergence that is allowed, in nats.

    Returns:
        The layer, the last one if none is close enough; the divergences from layer 1 on.

    Raises:
        UnsupportedError: If the model's parts are not known.
    """
    if model.anatomy is None:
        raise UnsupportedError(f"vtw: {model.info.family} states no anatomy")
    whole = _distributions(model, data)
    last = len(model.anatomy.layers) - 1
    found: list[float] = []
    for layer in range(1, last + 1):
        with Patch() as patch:
            reduce_visual_tokens(model, {layer: nothing}, patch)
            without = _distributions(model, data)
        pairs = zip(whole, without, strict=True)
        found.append(math.fsum(_divergence(a, b) for a, b in pairs) / len(whole))
        data.progress(layer, last, {"divergence": found[-1]})
        if found[-1] <= divergence:
            return layer, found
    return last, found


def _distributions(model: LoadedModel, data: FitData) -> list[dict[int, float]]:
    prompts = data.prompts
    return [
        {token.id: token.logprob for token in prediction.top}
        for begin in range(0, len(prompts), _BATCH)
        for prediction in model.generate(model.encode(prompts[begin : begin + _BATCH]), _FIRST)
    ]


def _divergence(whole: dict[int, float], other: dict[int, float]) -> float:
    return math.fsum(math.exp(p) * (p - other[token]) for token, p in whole.items())
