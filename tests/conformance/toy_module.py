"""The torch modules of the toys, apart because they import torch."""

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


class Rounded(torch.nn.Module):
    """A linear layer that holds integers and one scale for each output."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 15
        self.register_buffer("scale", scale)
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, inputs: Any) -> Any:
        return torch.nn.functional.linear(inputs, self.codes * self.scale, self.bias)


def make(width: int, vocabulary: int) -> Toy:
    """The same weights each time; the caller's random numbers are left alone."""
    module = Toy(width, vocabulary)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.7)
    return module.eval()
