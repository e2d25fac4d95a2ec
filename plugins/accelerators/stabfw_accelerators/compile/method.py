"""Compile what lies between the attentions of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stabfw.components import LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError


@dataclass
class Tally:
    """What was compiled.

    Attributes:
        modules: Modules of the decoder layers.
        calls: How often their compiled code was called.
    """

    modules: int = 0
    calls: int = 0


def compile_parts(model: LoadedModel, patch: Patch) -> Tally:
    """Compile every part of the decoder layers but attention, until the patch ends.

    Args:
        model: A model with an anatomy.
        patch: Takes the compiled code away.

    Raises:
        UnsupportedError: If there is nothing to compile, or compiling is switched off.
    """
    if torch._dynamo.config.disable:
        raise UnsupportedError("compile: the environment switches torch.compile off")
    if model.anatomy is None:
        raise UnsupportedError(f"compile: {model.info.family} states no anatomy")
    tally = Tally()
    for layer in model.anatomy.layers:
        for name, part in layer.named_children():
            if "attn" not in name:
                tally.modules += 1
                # Whole, or else what was not compiled would run as ever without a word.
                compiled = torch.compile(part.forward, fullgraph=True, dynamic=True)
                patch.set(part, "forward", _counted(compiled, tally))
    if not tally.modules:
        raise UnsupportedError(f"compile: nothing in a layer of {model.info.family} to compile")
    return tally


def _counted(compiled: Callable[..., Any], tally: Tally) -> Callable[..., Any]:
    def call(*args: Any, **given: Any) -> Any:
        tally.calls += 1
        return compiled(*args, **given)

    return call
