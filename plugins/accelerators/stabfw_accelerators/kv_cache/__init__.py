"""Accelerator `kv-cache`: keys and values of earlier tokens, kept in a few bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.components.patch import Patch

    from stabfw_accelerators.kv_cache.method import Tally


class KvCacheConfig(AcceleratorConfig):
    """Config of `kv-cache`."""

    bits: Literal[8, 4, 3, 2, 1] = Field(default=4, description="Bits per number.")
    group_size: int = Field(
        default=32,
        ge=8,
        multiple_of=8,
        description="Numbers that share scale and zero point; it has to divide the width of a "
        "head, so that a group is within one token.",
    )
    residual_length: int = Field(
        default=32,
        ge=1,
        description="The answer's latest tokens are kept as they are, up to so many.",
    )


class KvCache(Accelerator[KvCacheConfig]):
    """Quantizes the cache of keys and values, by transformers with the back end hqq.

    After Liu et al., 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache"
    (https://arxiv.org/abs/2402.02750). Adapted: keys are grouped within a token as values are,
    not along a channel, because transformers' other grouping would mix the rows of a batch; and
    the whole prompt is quantized, its latest tokens too. Rounding is to nearest, as theirs.

    The first token of an answer is chosen before anything is quantized: answers of one token
    cannot change, and are reported as such.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[KvCacheConfig]] = KvCacheConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.KV_CACHE})
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model whose decoder is known, where the package `hqq` is installed.

        Whether the groups fit is known only when the model is loaded.
        """
        if find_spec("hqq") is None:
            return 'the package hqq is not installed: pip install "stabfw[kv-cache]"'
        if not info.has_anatomy:
            return f"which layers of a {info.family} model are its decoder is not known"
        return None

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Round group by group, and count what is read from the cache, until the patch ends.

        Raises:
            UnsupportedError: If `group_size` does not suit the heads.
        """
        from stabfw_accelerators.kv_cache.method import watch

        self._tally = watch(model, self.config.bits, self.config.group_size, patch)

    def on_generate(self, options: GenerationOptions) -> GenerationOptions:
        """Ask transformers for its quantized cache."""
        cache = {
            "backend": "hqq",
            "nbits": self.config.bits,
            "q_group_size": self.config.group_size,
            "residual_length": self.config.residual_length,
            # Groups of neighbours in memory, which are within one head of one token.
            "axis_key": 1,
            "axis_value": 1,
        }
        extra = {"cache_implementation": "quantized", "cache_config": cache}
        return replace(options, extra={**options.extra, **extra})

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many tokens were chosen with a quantized cache, and its bytes at its largest."""
        if self._tally is None or not self._tally.prefills:
            return {"engaged": False, "bits": self.config.bits}
        why = "no answer went beyond its first token, which is chosen before the cache is quantized"
        return {
            "engaged": True if self._tally.steps else why,
            "bits": self.config.bits,
            "quantized_layers": self._tally.layers,
            "decoding_steps": self._tally.steps,
            "bytes_before": self._tally.bytes_before,
            "bytes_after": self._tally.bytes_after,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `kv-cache`."""
    register("kv-cache", KvCache)
