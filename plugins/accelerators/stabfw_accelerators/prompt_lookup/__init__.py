"""Accelerator `prompt-lookup`: several tokens a step, guessed from the prompt and then verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

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

    from stabfw_accelerators.prompt_lookup.method import Tally


class PromptLookupConfig(AcceleratorConfig):
    """Config of `prompt-lookup`."""

    num_tokens: int = Field(
        default=10, ge=1, description="Candidate tokens that are verified in one step, at most."
    )
    max_ngram_size: int = Field(
        default=2,
        ge=1,
        description="How many of the last tokens are looked up, at most; fewer, down to one, where "
        "so many do not occur before.",
    )


class PromptLookup(Accelerator[PromptLookupConfig]):
    """Speculative decoding whose candidates are copied from the prompt and the answer so far.

    After Saxena, 2023, "Prompt Lookup Decoding"
    (https://github.com/apoorvumang/prompt-lookup-decoding), by transformers'
    `prompt_lookup_num_tokens`. The last tokens are looked up in what came before, and what
    followed them there is proposed. One forward pass verifies all candidates: those are accepted
    that greedy decoding would have chosen. So answers should stay; those that do not are an
    effect of rounding, as sums over several tokens are taken in another order.

    Adapted: image placeholders are never candidates, and the prefill verifies none, so that it
    is the same as without, for token reductions too. Rows of a batch are decoded one at a time,
    since each accepts another number of tokens.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[PromptLookupConfig]] = PromptLookupConfig
    # Rejected candidates are cropped from the cache, which a quantized one does not allow.
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.DECODING, Slot.KV_CACHE})
    expects_identical: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = Fidelity.ADAPTED

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model that tells where its visual tokens are from, so that batches can be split."""
        if not info.has_vision:
            return (
                f"prompts are decoded one at a time, but a {info.family} model does not tell "
                "which pictures of a batch belong to which prompt"
            )
        return None

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Keep placeholders from being proposed, and count candidates, until the patch ends."""
        from stabfw_accelerators.prompt_lookup.method import watch

        self._tally = watch(model, patch)

    def on_generate(self, options: GenerationOptions) -> GenerationOptions:
        """Ask transformers for prompt lookup decoding."""
        lookup = {
            "prompt_lookup_num_tokens": self.config.num_tokens,
            "max_matching_ngram_size": self.config.max_ngram_size,
        }
        return replace(options, extra={**options.extra, **lookup})

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many candidates were proposed and accepted, and in how many steps."""
        tally = self._tally
        if tally is None or not tally.prefills:
            return {"engaged": False}
        if not tally.steps:
            engaged: bool | str = "no answer went beyond its first token, which the prefill gives"
        elif not tally.proposed:
            engaged = "the last tokens of an answer never occurred before, so nothing was proposed"
        else:
            engaged = True
        return {
            "engaged": engaged,
            "decoding_steps": tally.steps,
            "proposed_tokens": tally.proposed,
            "accepted_tokens": tally.accepted,
            "most_accepted_in_a_step": tally.most,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `prompt-lookup`."""
    register("prompt-lookup", PromptLookup)
