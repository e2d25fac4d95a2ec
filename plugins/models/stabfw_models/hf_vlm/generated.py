"""What one call of transformers' `generate` came to, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stabfw.components import TopToken


@dataclass(frozen=True, eq=False)
class Generated:
    """What came of a batch.

    Attributes:
        tokens: The new tokens, of shape (batch, steps).
        logits: The raw logits of each step, of shape (batch, vocabulary).
        first: Log-softmax of the first ones, in float32.
        top: The most likely first tokens of each row.
        options: For each row, the distribution over its options and their probability together.
        visual_tokens: Visual tokens per layer of each row.
        token_depths: How deep each of them went, of each row; empty where none was dropped.
        prefill_ms: Time until the first token was chosen, of one row.
        decode_ms: Time of the other tokens, of one row.
    """

    tokens: torch.Tensor
    logits: Sequence[torch.Tensor]
    first: torch.Tensor
    top: list[tuple[TopToken, ...]]
    options: list[tuple[Mapping[str, float], float | None]]
    visual_tokens: Sequence[tuple[int, ...]]
    token_depths: Sequence[bytes]
    prefill_ms: float
    decode_ms: float

    def logprobs(self) -> list[list[float]]:
        """Log-probability of each of the tokens."""
        # One step at a time: all of them at once would double the largest tensors of a long answer.
        later = zip(self.logits[1:], self.tokens.unbind(1)[1:], strict=True)
        chosen = [self.first.gather(1, self.tokens[:, :1])]
        chosen += [step.float().log_softmax(-1).gather(1, token[:, None]) for step, token in later]
        return torch.cat(chosen, 1).tolist()


class Clock:
    """A stopping criterion that stops nothing, but notes when the first token was chosen."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: float | None = None
        self._start = self._now()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Take the time at the first call; no row is done."""
        if self._first is None:
            self._first = self._now()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def stop(self) -> tuple[float, float]:
        """Seconds until the first token, and from there to the end."""
        end = self._now()
        first = end if self._first is None else self._first
        return first - self._start, end - first

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
