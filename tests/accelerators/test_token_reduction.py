"""FastV and random drop on the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from reductions import attached, require_most_attended
from stabfw.components import Accelerator, ModelInfo, Prediction, Prompt, Slot
from stabfw.components.patch import fingerprint
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.pool import Pool, PoolConfig
from stabfw_accelerators.prumerge import PruMerge, PruMergeConfig
from stabfw_accelerators.pyramiddrop import PyramidDrop, PyramidDropConfig
from stabfw_accelerators.random_drop import RandomDrop, RandomDropConfig

METHODS = [
    pytest.param(lambda **k: FastV(FastVConfig(**k)), id="fastv"),
    pytest.param(lambda **k: RandomDrop(RandomDropConfig(**k)), id="random-drop"),
]
Make = Callable[..., Accelerator[Any]]
Ask = Callable[..., list[Prediction]]


def essence(predictions: list[Prediction]) -> list[tuple[Any, ...]]:
    return [(p.token_ids, p.logprobs, p.top) for p in predictions]


def tokens(predictions: list[Prediction]) -> list[tuple[int, ...]]:
    return [p.token_ids for p in predictions]


@pytest.mark.parametrize("make", METHODS)
class TestBoth:
    def test_keeping_all_is_bit_identical_and_not_engaged(
        self, make: Make, tiny: Any, ask: Ask, baseline: list[Prediction]
    ) -> None:
        method = make(keep_ratio=1)
        assert essence(attached(method, tiny, lambda: ask(tiny))) == essence(baseline)
        assert method.report(tiny)["engaged"] is False

    def test_dropping_changes_logprobs_but_few_answers(
        self, make: Make, tiny: Any, ask: Ask, baseline: list[Prediction]
    ) -> None:
        method = make(keep_ratio=0.5)
        pruned = attached(method, tiny, lambda: ask(tiny))
        assert all(p.visual_tokens == (64, 64, 32, 32, 32, 32) for p in pruned)
        assert all(a.top != b.top for a, b in zip(pruned, baseline, strict=True))
        same = sum(a == b for a, b in zip(tokens(pruned), tokens(baseline), strict=True))
        assert same >= 0.8 * len(baseline)
        report = method.report(tiny)
        assert report["engaged"] is True
        assert (report["visual_tokens_before"], report["visual_tokens_after"]) == (64, 32)

    def test_batch_equals_single(self, make: Make, tiny: Any, ask: Ask) -> None:
        eight, single = attached(
            make(keep_ratio=0.25, layer=1), tiny, lambda: (ask(tiny, 8), ask(tiny, 1))
        )
        assert tokens(eight) == tokens(single)
        for a, b in zip(eight, single, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)

    def test_model_is_as_before_afterwards(
        self, make: Make, tiny: Any, ask: Ask, baseline: list[Prediction]
    ) -> None:
        structure = fingerprint(tiny.module)
        attached(make(keep_ratio=0.25), tiny, lambda: ask(tiny))
        assert fingerprint(tiny.module) == structure
        assert essence(ask(tiny)) == essence(baseline)

    def test_prompt_without_an_image_does_not_exercise_it(
        self, make: Make, tiny: Any, ask: Ask
    ) -> None:
        method = make()
        blind = [Prompt("blind", (), "What color is it?")]
        attached(method, tiny, lambda: ask(tiny, some=blind))
        assert method.report(tiny)["engaged"] == "no prompt had an image"

    def test_support(self, make: Make, tiny: Any) -> None:
        assert make(layer=5).supports(tiny.info, tiny.request) is None
        assert "no layer 6" in str(make(layer=6).supports(tiny.info, tiny.request))
        assert make().supports(ModelInfo("idefics3"), tiny.request) is not None
        assert make().occupies == {Slot.VISUAL_TOKENS}


class TestFastV:
    def test_keeps_what_the_last_token_attends_to_in_the_layer_before(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        select = FastV(FastVConfig()).select(2, 0.25)
        require_most_attended(tiny, prompts[:4], select, before=2, attending=1)

    def test_control_spends_the_same_budget(self) -> None:
        name, config = FastV(FastVConfig(layer=3, keep_ratio=0.25)).control()
        assert name == "random-drop"
        assert RandomDropConfig(**config) == RandomDropConfig(layer=3, keep_ratio=0.25)

    def test_fidelity_is_that_on_this_family(self, tiny: Any) -> None:
        assert FastV(FastVConfig()).report(tiny)["fidelity"] == "faithful"

        class Other:
            info = ModelInfo("qwen2_vl")

        assert FastV(FastVConfig()).report(Other())["fidelity"] == "adapted"  # type: ignore[arg-type]

    @pytest.mark.parametrize("config", [{"layer": 0}, {"keep_ratio": 0}, {"keep_ratio": 1.1}])
    def test_senseless_parameters_are_refused(self, config: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(config))):
            FastVConfig(**config)


class TestRandomDrop:
    def test_cached_equals_uncached(self, tiny: Any, ask: Ask) -> None:
        for layer in (0, 2):
            method = RandomDrop(RandomDropConfig(layer=layer, keep_ratio=0.25))
            with_cache, without = attached(
                method, tiny, lambda: (ask(tiny), ask(tiny, use_cache=False))
            )
            assert tokens(with_cache) == tokens(without)

    def test_depends_on_seed_and_instance_not_on_order(
        self, tiny: Any, ask: Ask, prompts: tuple[Prompt, ...]
    ) -> None:
        def run(seed: int, some: tuple[Prompt, ...] = prompts) -> dict[str, Any]:
            method = RandomDrop(RandomDropConfig(layer=0, keep_ratio=0.1, seed=seed))
            answers = attached(method, tiny, lambda: ask(tiny, 1, some))
            return {p.instance_id: a.logprobs for p, a in zip(some, answers, strict=True)}

        assert run(0) == run(0, prompts[::-1])
        assert run(0) != run(1)


@pytest.mark.parametrize(
    "method",
    [PyramidDrop(PyramidDropConfig()), PruMerge(PruMergeConfig()), Pool(PoolConfig(size=3))],
    ids=lambda method: method.name,
)
def test_blind_it_keeps_as_many_of_other_tokens(
    method: Accelerator[Any], tiny: Any, ask: Ask, baseline: list[Prediction]
) -> None:
    named = method.control()
    assert named is not None
    assert named[0] == method.name
    blind = type(method)(method.config_cls(**named[1]))
    assert blind.control() is None
    seeing = attached(method, tiny, lambda: ask(tiny))
    eight, one = attached(blind, tiny, lambda: (ask(tiny), ask(tiny, 1)))
    assert [p.visual_tokens for p in eight] == [p.visual_tokens for p in seeing]
    assert [p.token_ids for p in eight] == [p.token_ids for p in one]
    assert all(a.top != b.top for a, b in zip(eight, seeing, strict=True))
    assert blind.report(tiny)["fidelity"] == "adapted"
