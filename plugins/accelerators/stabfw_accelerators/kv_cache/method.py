"""What is read from the quantized cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stabfw.components import LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError
from transformers import QuantizedCache


@dataclass
class Tally:
    """What the cache was used for.

    Attributes:
        prefills: Batches that began with a quantized cache.
        steps: Later steps, which read what was quantized.
        layers: Layers of the cache.
        bytes_before: Bytes that the largest quantized part would take in the model's dtype.
        bytes_after: Bytes that it took.
    """

    prefills: int = 0
    steps: int = 0
    layers: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def watch(model: LoadedModel, group_size: int, patch: Patch) -> Tally:
    """Count how a quantized cache is used, until the patch ends.

    Args:
        model: A model with an anatomy.
        group_size: Numbers that share scale and zero point.
        patch: Takes the hooks away.

    Raises:
        UnsupportedError: If the model has no anatomy, or a group would be in two tokens.
    """
    anatomy, module = model.anatomy, model.module
    if anatomy is None or module is None:
        raise UnsupportedError(f"kv-cache: {model.info.family} states no anatomy")
    config: Any = module.config
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if width % group_size:
        raise UnsupportedError(
            f"kv-cache: group_size {group_size} does not divide the {width} numbers of a head; "
            "choose one that does"
        )
    tally = Tally()

    def before_decoder(_: Any, args: Any, given: Mapping[str, Any]) -> None:
        cache = given.get("cache", given.get("past_key_values"))
        if not isinstance(cache, QuantizedCache):
            return
        if cache.get_seq_length() == 0:
            tally.prefills += 1
            return
        tally.steps += 1
        before, after = map(sum, zip(*map(_bytes, cache.layers), strict=True))
        if before > tally.bytes_before:
            tally.layers = len(cache.layers)
            tally.bytes_before, tally.bytes_after = before, after

    patch.pre_hook(anatomy.decoder, before_decoder)
    return tally


def _bytes(layer: Any) -> tuple[int, int]:
    before = after = 0
    for packed, meta in (layer._quantized_keys, layer._quantized_values):
        before += meta["shape"].numel() * meta["compute_dtype"].itemsize
        after += packed.nbytes + meta["scale"].nbytes + meta["zero"].nbytes
    return before, after
