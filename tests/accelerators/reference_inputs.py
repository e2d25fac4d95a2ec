"""The random inputs on which the authors' selection code was run, by method.

The figures in `reference_sets` hold for exactly these, so a change here makes them useless. All
are drawn in the order of the lines, in float32, from one CPU generator with the case's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

#: Tokens before the visual ones, tokens of the question behind them, heads, size of a state.
START, QUESTION, HEADS, SIZE = 35, 24, 8, 64

Inputs = dict[str, torch.Tensor]


class Draw:
    """Draws normal tensors of mean 0 and deviation 1."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator)

    def attention(self, *shape: int, sharpness: float = 1.0) -> torch.Tensor:
        return (sharpness * self(*shape)).softmax(-1)

    def alike(self, tokens: int) -> torch.Tensor:
        """States whose cosines are above zero, as those of a model are."""
        return self(tokens, SIZE) + 2 * self(1, SIZE)


def fastv(seed: int, tokens: int) -> Inputs:
    draw, length = Draw(seed), START + tokens + QUESTION
    return {
        "before": draw.attention(HEADS, length, length),
        "here": draw.attention(HEADS, length, length),
    }


def pyramiddrop(seed: int, tokens: int) -> Inputs:
    """`tokens` are the visual tokens at the stage, of perhaps more at first."""
    draw = Draw(seed)
    return {
        "states": draw(START + tokens + QUESTION, SIZE),
        "norm": 1 + 0.1 * draw(SIZE),
        "query": draw(SIZE, SIZE) / 5,
        "key": draw(SIZE, SIZE) / 5,
    }


def divprune(seed: int, tokens: int) -> Inputs:
    return {"features": Draw(seed).alike(tokens)}


def visionzip(seed: int, tokens: int) -> Inputs:
    """The class token comes first."""
    draw = Draw(seed)
    return {
        "attention": draw.attention(HEADS, tokens + 1),
        "keys": draw(HEADS, tokens + 1, SIZE // HEADS),
        "states": draw.alike(tokens + 1),
    }


def prumerge(seed: int, tokens: int, sharpness: float = 1.0) -> Inputs:
    """The class token comes first."""
    draw = Draw(seed)
    return {
        "queries": sharpness * draw(tokens + 1, SIZE),
        "keys": draw(tokens + 1, SIZE),
        "states": draw.alike(tokens + 1),
    }


def sparsevlm(seed: int, tokens: int) -> Inputs:
    draw, length = Draw(seed), START + tokens + QUESTION
    return {
        "embedded": draw(length, SIZE) / 2,
        "states": draw.alike(length),
        "attention": draw.attention(HEADS, length, length),
    }


def dart(seed: int, tokens: int) -> Inputs:
    draw, length = Draw(seed), START + tokens + QUESTION
    return {"keys": draw(HEADS, length, SIZE // HEADS), "states": draw.alike(length)}


def holov(seed: int, tokens: int, sharpness: float) -> Inputs:
    draw = Draw(seed)
    attention = draw.attention(HEADS, tokens, sharpness=sharpness).mean(0)
    return {"attention": attention, "features": draw.alike(tokens)}


def tome(seed: int, tokens: int) -> Inputs:
    return {"features": Draw(seed).alike(tokens)}


def gptq(seed: int, tokens: int, silent: Sequence[int] = ()) -> Inputs:
    """A weight of rows around other values than 0, and inputs that few causes relate.

    The columns of inputs named by `silent` are 0.
    """
    draw = Draw(seed)
    weight = 0.1 * draw(8, 256) + 0.2 * draw(8, 1)
    inputs = draw(tokens, 16) @ draw(16, 256) + 0.3 * draw(tokens, 256)
    inputs[:, list(silent)] = 0
    return {"weight": weight, "inputs": inputs}


def fingerprint(inputs: Inputs) -> float:
    """A figure by which wrong inputs are told from right ones."""
    return round(sum(float(part.double().abs().sum()) for part in inputs.values()), 3)


def sums(states: torch.Tensor) -> list[float]:
    """A figure for each state."""
    return [round(float(value), 3) for value in states.double().sum(-1)]


def make(method: str, case: dict[str, Any]) -> Inputs:
    """Make the inputs of one case of a method."""
    extra = {name: case[name] for name in ("sharpness", "silent") if name in case}
    inputs: Inputs = globals()[method](case["seed"], case["tokens"], **extra)
    return inputs
