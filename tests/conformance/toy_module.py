"""The torch module of the toy model, apart because it imports torch."""

from __future__ import annotations

from typing import Any

import torch


class Toy(torch.nn.Module):
    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.mix = torch.nn.Linear(width + 1, width)
        self.head = torch.nn.Linear(width, vocabulary)

    def forward(self, ids: Any, mask: Any, pixels: Any) -> Any:
        weights = mask[..., None].float()
        words = (self.embed(ids) * weights).sum(1) / weights.sum(1)
        states = torch.cat([words * 3 + self.embed(ids[:, -1]), pixels], -1)
        return self.head(torch.tanh(self.mix(states)))


def make(width: int, vocabulary: int) -> Toy:
    """The same weights each time; the caller's random numbers are left alone."""
    module = Toy(width, vocabulary)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.7)
    return module.eval()
