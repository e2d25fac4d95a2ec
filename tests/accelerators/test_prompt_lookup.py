"""Guessed tokens change no answer, only the number of steps; wrong guesses are thrown away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stabfw.components import (
    Accelerator,
    FinishReason,
    GenerationOptions,
    Image,
    Kind,
    ModelInfo,
    Prediction,
    Prompt,
)
from stabfw.components.patch import Patch
from stabfw.errors import SpecError, UnsupportedError
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw.testing.bench import bits
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.int8 import Int8, Int8Config
from stabfw_accelerators.prompt_lookup import PromptLookup, PromptLookupConfig
from stabfw_accelerators.pyramiddrop import PyramidDrop, PyramidDropConfig
from stabfw_models.hf_vlm.rows import split_rows

TINY = ("tiny-llava", "tiny-llava-next", "tiny-qwen2-vl", "tiny-qwen2.5-vl")
#: Beyond their answer the models ramble and repeat themselves.
OPTIONS = GenerationOptions(max_new_tokens=16)
LONG = GenerationOptions(max_new_tokens=16, extra={"min_new_tokens": 16})


@pytest.fixture(scope="module", params=TINY)
def loaded(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of the embedded models."""
    cls = Registry().load(Kind.MODEL, request.param)
    model: Any = cls(cls.config_cls(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as opened:
        yield opened


def told(
    model: Any,
    asked: Sequence[Prompt],
    *accelerators: Accelerator[Any],
    options: GenerationOptions = LONG,
    size: int = 8,
) -> tuple[list[Prediction], dict[str, Any]]:
    """Answer in batches, and tell what the last accelerator reports."""
    with Patch() as patch:
        for accelerator in accelerators:
            accelerator.attach(model, None, patch)
            options = accelerator.on_generate(options)
        found = [
            prediction
            for start in range(0, len(asked), size)
            for prediction in model.generate(model.encode(asked[start : start + size]), options)
        ]
        report = dict(accelerators[-1].report(model)) if accelerators else {}
    return found, report


def lookup(**fields: Any) -> PromptLookup:
    return PromptLookup(PromptLookupConfig(**fields))


def require_same(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    """Require equal answers; numbers may differ by rounding."""
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert [t.id for t in one.top] == [t.id for t in other.top]
        assert one.options == pytest.approx(other.options, abs=1e-4)
        assert (one.text, one.finish, one.visual_tokens) == (
            other.text,
            other.finish,
            other.visual_tokens,
        )


def test_answers_stay_though_several_tokens_come_at_once(
    loaded: Any, prompts: tuple[Prompt, ...]
) -> None:
    plain, _ = told(loaded, prompts)
    found, report = told(loaded, prompts, lookup())
    require_same(found, plain)
    assert all(len(p.token_ids) == len(p.logprobs) == 16 for p in found)
    assert all(p.prefill_ms and p.decode_ms for p in found)
    assert report["engaged"] is True
    assert report["most_accepted_in_a_step"] > 1
    # What follows the first token is either accepted or comes from a step.
    assert report["decoding_steps"] + report["accepted_tokens"] == 15 * len(prompts)
    assert report["proposed_tokens"] > report["accepted_tokens"]
    # What ends by itself still does.
    plain, _ = told(loaded, prompts[:8], options=OPTIONS)
    require_same(told(loaded, prompts[:8], lookup(), options=OPTIONS)[0], plain)
    assert all(p.finish is FinishReason.STOP for p in plain)


def test_it_goes_on_where_a_token_reduction_ended(loaded: Any, prompts: tuple[Prompt, ...]) -> None:
    reductions = [
        FastV(FastVConfig(layer=1, keep_ratio=0.25)),
        PyramidDrop(PyramidDropConfig()),
    ]
    if not loaded.info.multimodal_positions:
        reductions.append(FastV(FastVConfig(layer=2, keep_ratio=0.25, positions="renumber")))
    whole, _ = told(loaded, prompts[:4])
    for reduction in reductions:
        expected, _ = told(loaded, prompts[:4], reduction)
        found, report = told(loaded, prompts[:4], reduction, lookup())
        require_same(found, expected)
        assert report["most_accepted_in_a_step"] > 0
        assert all(a.logprobs != b.logprobs for a, b in zip(expected, whole, strict=True))


def test_first_tokens_are_those_of_the_prompt_alone(
    loaded: Any, prompts: tuple[Prompt, ...]
) -> None:
    """Nothing is guessed in prefill, and a row keeps neither padding nor others' pictures."""
    first = GenerationOptions(max_new_tokens=1)
    mixed = [
        Prompt("several", (*prompts[0].images, *prompts[9].images), prompts[0].text),
        Prompt("none", (), prompts[1].text),
        Prompt("large", (picture(150, 90),), prompts[2].text),
        prompts[3],
    ]
    alone, _ = told(loaded, mixed, options=first, size=1)
    found, report = told(loaded, mixed, lookup(), options=first)
    assert [bits(p) for p in found] == [bits(p) for p in alone]
    assert "beyond its first token" in report["engaged"]
    for row, prompt in zip(split_rows(loaded.encode(mixed), loaded.anatomy), mixed, strict=True):
        expected = loaded.encode([prompt])
        assert row.instance_ids == expected.instance_ids
        assert row.inputs.keys() == expected.inputs.keys()
        for name, tensor in expected.inputs.items():
            # LLaVA-NeXT pads to the most tiles of the batch.
            kept = row.inputs[name][:, : tensor.shape[1]]
            assert torch.equal(kept, tensor)


def picture(height: int, width: int) -> Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.from_pixels(noise)


def test_given_answers_are_scored_as_without(tiny: Any, prompts: tuple[Prompt, ...]) -> None:
    repeated = (5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, 7)
    answers = [[repeated, (9,)], [(7,)], []]
    accelerator = lookup()
    with Patch() as patch:
        accelerator.attach(tiny, None, patch)
        encoded = tiny.encode(prompts[:3])
        found = tiny.score(encoded, answers, accelerator.on_generate(OPTIONS))
        report = accelerator.report(tiny)
    expected = tiny.score(tiny.encode(prompts[:3]), answers, OPTIONS)
    for row, other in zip(found, expected, strict=True):
        require_same(row, other)
    assert report["most_accepted_in_a_step"] > 1


class TestCandidates:
    def generator(self, model: Any, accelerator: PromptLookup) -> Any:
        """The generator of candidates that transformers gets, when the prefill is over."""
        made: list[Any] = []

        def keep(own: Any, **given: Any) -> Any:
            made.append(own(**given))
            return made[-1]

        with Patch() as patch:
            accelerator.attach(model, None, patch)
            patch.wrap(model.module, "_get_candidate_generator", keep)
            encoded = model.encode([Prompt("one", (picture(60, 60),), "what?")])
            options = replace(OPTIONS, max_new_tokens=1)
            model.generate(encoded, accelerator.on_generate(options))
        made[-1].inner.max_length = 1000
        return made[-1]

    def proposed(self, generator: Any, *ids: int) -> list[int]:
        """What is proposed to follow some tokens."""
        given = torch.tensor([ids])
        extended, _ = generator.get_candidates(given)
        assert extended[:, : len(ids)].tolist() == given.tolist()
        return list(extended[0, len(ids) :].tolist())

    def test_what_followed_the_longest_ngram_is_proposed(self, tiny: Any) -> None:
        generator = self.generator(tiny, lookup(num_tokens=3))
        assert self.proposed(generator, 5, 6, 7, 8, 9, 4, 6, 5, 6) == [7, 8, 9]
        assert self.proposed(generator, 4, 6, 8, 5, 6, 7, 5, 6) == [7, 5, 6]
        assert self.proposed(generator, 5, 6, 7, 8) == []
        alone = self.generator(tiny, lookup(num_tokens=3, max_ngram_size=1))
        assert self.proposed(alone, 4, 6, 8, 5, 6, 7, 5, 6) == [8, 5, 6]

    def test_placeholders_and_ends_are_never_proposed(self, loaded: Any) -> None:
        generator = self.generator(loaded, lookup())
        image, (end, *_) = loaded.anatomy.image_token_id, loaded.end_tokens
        assert self.proposed(generator, 95, image, image, 96, 95) == []
        assert self.proposed(generator, 95, image, 96, 95, 97, 98, 95) == [97, 98, 95]
        assert self.proposed(generator, 95, 97, image, 98, 95) == [97]
        assert self.proposed(generator, 95, 97, end, 98, 95) == [97]


def test_quantized_weights_answer_the_same(prompts: tuple[Prompt, ...]) -> None:
    cls = Registry().load(Kind.MODEL, "tiny-llava")
    model: Any = cls(cls.config_cls(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as opened:
        Int8(Int8Config()).transform(opened, None)
        require_same(told(opened, prompts[:8], lookup())[0], told(opened, prompts[:8])[0])


def test_it_says_what_it_needs(tiny: Any) -> None:
    accelerator = lookup()
    assert accelerator.supports(tiny.info, tiny.request) is None
    assert "one at a time" in str(accelerator.supports(ModelInfo("idefics3"), tiny.request))
    assert accelerator.report(tiny) == {"engaged": False}
    with Patch() as patch:
        accelerator.attach(tiny, None, patch)
        assert accelerator.report(tiny) == {"engaged": False}
        tiny.generate(tiny.encode([Prompt("one", (), "what?")]), LONG)
        # Attached, but never asked for.
        assert accelerator.report(tiny) == {"engaged": False}


def test_another_transformers_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabfw_accelerators.prompt_lookup.method._MAKER", "_elsewhere")
    with Patch() as patch, pytest.raises(UnsupportedError, match="has no _elsewhere"):
        lookup().attach(tiny, None, patch)


def test_rows_that_cannot_be_told_apart_are_refused(tiny: Any, prompts: tuple[Prompt, ...]) -> None:
    encoded = tiny.encode(prompts[:2])
    with pytest.raises(UnsupportedError, match="batch_size: 1"):
        split_rows(encoded, None)
    with pytest.raises(UnsupportedError, match="which pictures of a batch"):
        split_rows(encoded, replace(tiny.anatomy, vision=None))
    encoded.inputs["masks"] = torch.zeros(5, 3)
    with pytest.raises(UnsupportedError, match=r"input masks, of shape \(5, 3\)"):
        split_rows(encoded, tiny.anatomy)


def spec(tmp_path: Path, stack: list[Any], longest: int = 16) -> dict[str, Any]:
    return {
        "stabfw": 1,
        "name": "lookup",
        "models": ["tiny-qwen2-vl"],
        "stacks": {"lookup": stack},
        "benchmarks": [{"type": "shapes", "limit": 8}],
        "controls": {"noise_floor": None},
        "generation": {"max_new_tokens": longest},
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "tracking": {"uri": None},
    }


@pytest.mark.parametrize("longest", [1, 16])
def test_a_run_tells_what_was_accepted(longest: int, tmp_path: Path) -> None:
    registry = Registry()
    parsed = parse_spec(spec(tmp_path, ["prompt-lookup"], longest), registry)
    results = run(parsed, registry=registry).results
    assert results.failures == ()
    (report,) = [c.report["prompt-lookup"] for c in results.cells if "prompt-lookup" in c.report]
    assert report["decoding_steps"] == (0 if longest == 1 else 8)
    told = [notice for notice in results.notices if "prompt-lookup was not exercised" in notice]
    assert len(told) == (1 if longest == 1 else 0)


def test_a_quantized_cache_is_refused(tmp_path: Path) -> None:
    registry = Registry()
    parsed = parse_spec(spec(tmp_path, ["kv-cache", "prompt-lookup"]), registry)
    with pytest.raises(SpecError, match="both change the kv-cache"):
        run(parsed, registry=registry)
