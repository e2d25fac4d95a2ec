"""A quantized cache changes what follows the first token of an answer, and nothing before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hqq.core.quantize import Quantizer
from stabfw.components import GenerationOptions, Prediction, Prompt
from stabfw.components.patch import Patch
from stabfw.errors import UnsupportedError
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.kv_cache import KvCache, KvCacheConfig

#: What no model would answer, so that each token of it is uncertain.
TOLD = tuple(range(20, 40))
OPTIONS = GenerationOptions(max_new_tokens=len(TOLD))


def forced(
    model: Any, prompts: Sequence[Prompt], *accelerators: Any
) -> tuple[list[Prediction], list[dict[str, Any]]]:
    """Score one long answer to each prompt, and tell what the accelerators report."""
    options = OPTIONS
    with Patch() as patch:
        for accelerator in accelerators:
            accelerator.attach(model, None, patch)
            options = accelerator.on_generate(options)
        scored = model.score(model.encode(prompts), [[TOLD]] * len(prompts), options)
        reports = [dict(accelerator.report(model)) for accelerator in accelerators]
    return [row[0] for row in scored], reports


def test_fewer_bits_are_further_away_but_never_at_the_first_token(
    tiny: Any, prompts: tuple[Prompt, ...]
) -> None:
    exact, _ = forced(tiny, prompts[:8])
    errors = []
    for bits in (8, 4, 2):
        found, (report,) = forced(tiny, prompts[:8], KvCache(KvCacheConfig(bits=bits)))
        assert report["engaged"] is True
        assert report["decoding_steps"] == len(TOLD) - 1
        pairs = list(zip(found, exact, strict=True))
        assert all(one.logprobs[0] == other.logprobs[0] for one, other in pairs)
        assert all(one.logprobs[1] != other.logprobs[1] for one, other in pairs)
        errors.append(
            sum(abs(x - y) for a, b in pairs for x, y in zip(a.logprobs, b.logprobs, strict=True))
        )
    assert errors == sorted(errors)
    assert errors[0] < 0.1 * errors[2]


def test_latest_tokens_are_kept_as_they_are(tiny: Any, prompts: tuple[Prompt, ...]) -> None:
    found = {}
    for length in (1, 8, 1000):
        accelerator = KvCache(KvCacheConfig(bits=2, residual_length=length))
        found[length] = [p.logprobs for p in forced(tiny, prompts[:4], accelerator)[0]]
    # Until the eighth token of the answer nothing of it is quantized.
    assert all(a[:8] == b[:8] for a, b in zip(found[8], found[1000], strict=True))
    assert all(a[9:] != b[9:] for a, b in zip(found[8], found[1000], strict=True))
    assert all(a[2:] != b[2:] for a, b in zip(found[1], found[1000], strict=True))


def test_the_cache_shrinks_and_a_token_reduction_shrinks_it_further(
    tiny: Any, prompts: tuple[Prompt, ...]
) -> None:
    cache = KvCache(KvCacheConfig())
    fastv = FastV(FastVConfig(layer=1, keep_ratio=0.25))
    _, (alone,) = forced(tiny, prompts[:8], cache)
    found, (both, reduced) = forced(tiny, prompts[:8], cache, fastv)
    only_reduced, _ = forced(tiny, prompts[:8], fastv)
    length = tiny.encode(prompts[:8]).inputs["input_ids"].numel()
    assert alone["quantized_layers"] == 6
    assert alone["bytes_before"] == 2 * 6 * 128 * 4 * length
    assert alone["bytes_after"] <= 0.19 * alone["bytes_before"]
    dropped = 8 * (reduced["visual_tokens_before"] - reduced["visual_tokens_after"])
    assert both["bytes_before"] == 2 * 128 * 4 * (length + 5 * (length - dropped))
    assert [p.logprobs[0] for p in found] == [p.logprobs[0] for p in only_reduced]
    assert [p.logprobs[1] for p in found] != [p.logprobs[1] for p in only_reduced]


def test_rows_are_rounded_alone(
    tiny: Any, prompts: tuple[Prompt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hqq would optimize it, the zero points of one row would depend on the others."""

    def refuse(**_: Any) -> None:
        raise AssertionError("the zero points are optimized")

    monkeypatch.setattr(Quantizer, "optimize_weights", refuse)
    accelerator = KvCache(KvCacheConfig(bits=2))
    together, _ = forced(tiny, prompts[:4], accelerator)
    for number, prompt in enumerate(prompts[:4]):
        (alone,), _ = forced(tiny, [prompt], accelerator)
        assert alone.logprobs == pytest.approx(together[number].logprobs, abs=1e-4)


def test_groups_stay_within_a_token(tiny: Any) -> None:
    with Patch() as patch, pytest.raises(UnsupportedError, match="24 does not divide the 32"):
        KvCache(KvCacheConfig(group_size=24)).attach(tiny, None, patch)
    # Four heads of 32 numbers each: four groups, where hqq packs eight numbers of one bit.
    with Patch() as patch, pytest.raises(UnsupportedError, match="4 groups of 32, but hqq packs 8"):
        KvCache(KvCacheConfig(bits=1)).attach(tiny, None, patch)
    with Patch() as patch:
        KvCache(KvCacheConfig(bits=1, group_size=16)).attach(tiny, None, patch)


def test_it_says_what_it_needs(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = KvCache(KvCacheConfig())
    assert accelerator.supports(tiny.info, tiny.request) is None
    monkeypatch.setattr("stabfw_accelerators.kv_cache.find_spec", lambda _: None)
    assert 'pip install "stabfw[kv-cache]"' in str(accelerator.supports(tiny.info, tiny.request))
    assert accelerator.report(tiny)["engaged"] is False


@pytest.mark.parametrize("longest", [1, 2])
def test_answers_of_one_token_are_told_to_say_nothing(longest: int, tmp_path: Path) -> None:
    registry = Registry()
    spec = parse_spec(
        {
            "stabfw": 1,
            "name": "cache",
            "models": ["tiny-llava"],
            "stacks": {"both": ["kv-cache", "fastv"]},
            "benchmarks": [{"type": "shapes", "limit": 8}],
            "perturbations": ["typos"],
            "controls": {"noise_floor": None},
            "generation": {"max_new_tokens": longest},
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        },
        registry,
    )
    results = run(spec, registry=registry).results
    assert results.failures == ()
    told = [notice for notice in results.notices if "kv-cache was not exercised" in notice]
    reports = [c.report["kv-cache"] for c in results.cells if "kv-cache" in c.report]
    assert len(reports) == 2
    # One batch each: what one cell counts is not told of the next.
    assert [report["decoding_steps"] for report in reports] == [longest - 1] * 2
    assert len(told) == (2 if longest == 1 else 0)
    assert any("typos" in notice for notice in told) == (longest == 1)
