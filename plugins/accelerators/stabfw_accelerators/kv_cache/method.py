"""How the cache is rounded, and what is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqq.core.quantize import Quantizer
from stabfw.components import LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError
from transformers import QuantizedCache

from stabfw_accelerators.hqq.method import packed_together


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


class ToNearest(Quantizer):  # type: ignore[misc]
    """Rounds between the extremes of each group.

    What hqq does beyond that stops by the error of all groups together, so that an answer would
    depend on what else is in the batch.
    """

    @classmethod
    def quantize(cls, *args: Any, **given: Any) -> Any:
        """Quantize without optimizing zero points."""
        return super().quantize(*args, **given, optimize=False)


def watch(model: LoadedModel, bits: int, group_size: int, patch: Patch) -> Tally:
    """Have the cache rounded group by group, and count how it is used, until the patch ends.

    Args:
        model: A model with an anatomy.
        bits: Bits per number.
        group_size: Numbers that share scale and zero point.
        patch: Takes the hooks away.

    Raises:
        UnsupportedError: If the model has no anatomy, or the groups do not suit it.
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
    heads = text.num_key_value_heads or text.num_attention_heads
    groups, together = heads * width // group_size, packed_together(bits)
    if groups % together:
        raise UnsupportedError(
            f"kv-cache: a token has {groups} groups of {group_size}, but hqq packs {together} "
            f"numbers of {bits} bits together; choose a smaller group_size"
        )
    tally = Tally()

    def before_decoder(_: Any, args: Any, given: Mapping[str, Any]) -> None:
        cache = given.get("cache", given.get("past_key_values"))
        if not isinstance(cache, QuantizedCache):
            return
        if cache.get_seq_length() == 0:
            tally.prefills += 1
            for layer in cache.layers:
                layer.quantizer = ToNearest
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
