"""Which candidates transformers gets to verify, and how many of them it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from stabfw.components import LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation.candidate_generator import CandidateGenerator

# Not public, but the only place where transformers lets a candidate generator be chosen.
_MAKER = "_get_candidate_generator"


@dataclass
class Tally:
    """What came of the candidates.

    Attributes:
        prefills: Answers that were begun.
        steps: Forward passes after these.
        proposed: Candidate tokens.
        accepted: How many of them were accepted.
        most: The most that were accepted in one step.
    """

    prefills: int = 0
    steps: int = 0
    proposed: int = 0
    accepted: int = 0
    most: int = 0


class AfterPrefill(CandidateGenerator):  # type: ignore[misc]
    """The candidates of another generator from the second step on, counted."""

    def __init__(self, inner: CandidateGenerator, tally: Tally) -> None:
        self.inner = inner
        self._tally = tally
        self._prefilled = False

    def get_candidates(self, input_ids: torch.Tensor, **given: Any) -> tuple[torch.Tensor, Any]:
        """Extend the tokens, of shape (1, length), by candidates; not in prefill."""
        if not self._prefilled:
            self._prefilled = True
            self._tally.prefills += 1
            return input_ids, None
        found, logits = self.inner.get_candidates(input_ids, **given)
        self._tally.steps += 1
        self._tally.proposed += found.shape[1] - input_ids.shape[1]
        return found, logits

    def update_candidate_strategy(
        self, input_ids: torch.Tensor, scores: torch.Tensor, num_matches: int
    ) -> None:
        """Count the candidates that were accepted."""
        self.inner.update_candidate_strategy(input_ids, scores, num_matches)
        self._tally.accepted += int(num_matches)
        self._tally.most = max(self._tally.most, int(num_matches))


def watch(model: LoadedModel, patch: Patch) -> Tally:
    """Bar placeholders from the candidates, and count these, until the patch ends.

    Args:
        model: A model with an anatomy.
        patch: Takes the edit back.

    Raises:
        UnsupportedError: If the model has no anatomy, or transformers chooses its candidate
            generator elsewhere.
    """
    anatomy, module = model.anatomy, model.module
    if anatomy is None or module is None:
        raise UnsupportedError(f"prompt-lookup: {model.info.family} states no anatomy")
    if not hasattr(module, _MAKER):
        raise UnsupportedError(
            f"prompt-lookup: transformers {transformers.__version__} has no {_MAKER}; use 5.24"
        )
    tally = Tally()

    def make(own: Any, *, logits_processor: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        # A processor that the generator has, but not the model, bars tokens from being proposed
        # and leaves the model free to say them.
        barred = SuppressTokensLogitsProcessor([anatomy.image_token_id], device=input_ids.device)
        processor = LogitsProcessorList([*logits_processor, barred])
        inner = own(logits_processor=processor, input_ids=input_ids, **given)
        return AfterPrefill(inner, tally)

    patch.wrap(module, _MAKER, make)
    return tally
