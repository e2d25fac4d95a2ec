"""Compiled code answers the same, runs in place of the model's own, and goes away again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stabfw.components import ModelInfo, Prediction, Prompt
from stabfw.components.patch import Patch, fingerprint
from stabfw.errors import UnsupportedError
from stabfw_accelerators.compile import Compile, CompileConfig
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.int8 import Int8, Int8Config
from stabfw_models.tiny import TinyConfig, TinyLlava

Ask = Callable[..., list[Prediction]]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")


@needs_compiler
def test_answers_stay_beside_other_accelerators(ask: Ask, prompts: tuple[Prompt, ...]) -> None:
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    compiling, fastv = Compile(CompileConfig()), FastV(FastVConfig(layer=1, keep_ratio=0.25))
    with model.open(model.request()) as loaded:
        Int8(Int8Config()).transform(loaded, None)
        with Patch() as patch:
            fastv.attach(loaded, None, patch)
            without = ask(loaded, some=prompts[:8])
        before = fingerprint(loaded.module)
        with Patch() as patch:
            fastv.attach(loaded, None, patch)
            compiling.attach(loaded, None, patch)
            answers = ask(loaded, some=prompts[:8])
            report = compiling.report(loaded)
        assert fingerprint(loaded.module) == before
    assert report["engaged"] is True
    assert report["modules"] == 6 * 3
    assert report["calls"] >= 2 * report["modules"]
    assert [a.token_ids for a in answers] == [b.token_ids for b in without]
    assert [a.visual_tokens for a in answers] == [b.visual_tokens for b in without]
    assert any(a.logprobs != b.logprobs for a, b in zip(answers, without, strict=True))


@needs_compiler
def test_what_cannot_be_compiled_is_an_error(
    tiny: Any, ask: Ask, prompts: tuple[Prompt, ...]
) -> None:
    part = tiny.module.model.language_model.layers[0].mlp

    def broken(own: Any, states: Any) -> Any:
        torch._dynamo.graph_break()
        return own(states)

    with Patch() as patch:
        patch.wrap(part, "forward", broken)
        Compile(CompileConfig()).attach(tiny, None, patch)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            ask(tiny, some=prompts[:1])


def test_compiling_that_is_switched_off_is_refused(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    with Patch() as patch, pytest.raises(UnsupportedError, match=r"switches torch\.compile off"):
        Compile(CompileConfig()).attach(tiny, None, patch)
    assert Compile(CompileConfig()).report(tiny) == {"engaged": False}


def test_it_says_what_it_needs(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Compile(CompileConfig())
    assert "decoder" in str(accelerator.supports(ModelInfo("idefics3"), tiny.request))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "C++ compiler" in str(accelerator.supports(tiny.info, tiny.request))
