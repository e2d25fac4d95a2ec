"""Given answers are scored on the path of generation, and options by the first token."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import exp, log
from typing import Any

import checkpoints
import pytest
import torch
from stabfw.components import (
    Accelerator,
    GenerationOptions,
    Option,
    Prompt,
)
from stabfw.components.patch import Patch
from stabfw.errors import DataError
from stabfw.testing.bench import bits
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.hqq import Hqq, HqqConfig
from stabfw_accelerators.random_drop import RandomDrop, RandomDropConfig
from stabfw_benchmarks.shapes import Shapes, ShapesConfig
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig
from stabfw_models.tiny import TinyConfig, TinyLlava

OPTIONS = GenerationOptions(max_new_tokens=12)
TWO_BITS = GenerationOptions(
    max_new_tokens=12,
    extra={
        "cache_implementation": "quantized",
        "cache_config": {"backend": "hqq", "nbits": 2, "q_group_size": 16, "residual_length": 1},
    },
)
YES_NO = (Option("yes", ("Yes", "yes")), Option("no", ("No", "no")))


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    """Prompts with options and without, with answers of one and of many tokens."""
    benchmark = Shapes(ShapesConfig(limit=16, kinds=("exist", "mc_color", "describe", "count")))
    return [benchmark.prompt(instance) for instance in benchmark.instances("test")]


@contextmanager
def accelerated(accelerator: Accelerator[Any] | None) -> Iterator[Any]:
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as loaded, Patch() as patch:
        if accelerator is not None:
            accelerator.transform(loaded, None)
            accelerator.attach(loaded, None, patch)
        yield loaded


@pytest.mark.parametrize(
    ("accelerator", "options"),
    [
        pytest.param(None, OPTIONS, id="none"),
        pytest.param(FastV(FastVConfig(layer=2, keep_ratio=0.25)), OPTIONS, id="fastv"),
        pytest.param(RandomDrop(RandomDropConfig(layer=0, keep_ratio=0.25)), OPTIONS, id="drop"),
        pytest.param(Hqq(HqqConfig(bits=3)), OPTIONS, id="hqq"),
        pytest.param(None, TWO_BITS, id="cache"),
    ],
)
def test_scoring_what_was_generated_tells_the_same(
    accelerator: Accelerator[Any] | None, options: GenerationOptions, asked: list[Prompt]
) -> None:
    with accelerated(accelerator) as model:
        encoded = model.encode(asked)
        generated = model.generate(encoded, options)
        scored = model.score(encoded, [[p.token_ids] for p in generated], options)
        plain = model.score(encoded, [[p.token_ids] for p in generated], OPTIONS)
    assert len({len(p.token_ids) for p in generated}) > 1
    assert [bits(p) for (p,) in scored] == [bits(p) for p in generated]
    # Else the quantized cache would not have been in use.
    unlike = [a.logprobs != b.logprobs for (a,), (b,) in zip(plain, scored, strict=True)]
    assert any(unlike) == (options is TWO_BITS)


def test_one_pass_over_prompt_and_answer_would_select_other_tokens(asked: list[Prompt]) -> None:
    """Why answers are forced step by step: FastV looks at the last token of what it is given."""
    with accelerated(FastV(FastVConfig(layer=2, keep_ratio=0.1))) as model:
        far = 0.0
        for prompt in asked[:6]:
            encoded = model.encode([prompt])
            ((scored,),) = model.score(encoded, [[(390, 369, 390)]], OPTIONS)
            inputs = dict(encoded.inputs)
            inputs["input_ids"] = torch.cat(
                [inputs["input_ids"], torch.tensor([scored.token_ids])], 1
            )
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.inference_mode():
                logits = model.module(**inputs).logits[0, -len(scored.token_ids) - 1 : -1].float()
            model.token_depths = ()
            once = logits.log_softmax(-1).gather(1, torch.tensor([scored.token_ids]).T)[:, 0]
            far = max(far, (once - torch.tensor(scored.logprobs)).abs().max().item())
    assert far > 1e-3


class TestScore:
    def test_single_tokens_come_from_one_prefill(self, tiny: Any, asked: list[Prompt]) -> None:
        calls = []
        with Patch() as patch:
            patch.pre_hook(tiny.module, lambda *_: calls.append(1))
            scored = tiny.score(tiny.encode(asked[:4]), [[(i,) for i in range(30)]] * 4, OPTIONS)
        assert len(calls) == 1
        (all_of,) = tiny.score(
            tiny.encode(asked[:1]), [[(i,) for i in range(len(tiny.processor.tokenizer))]], OPTIONS
        )
        assert sum(exp(p.logprobs[0]) for p in all_of) == pytest.approx(1, abs=1e-5)
        assert all(p.decode_ms == 0 < p.prefill_ms for row in scored for p in row)

    def test_ragged_rows_are_scored_as_they_are_alone(self, tiny: Any, asked: list[Prompt]) -> None:
        rows = [[(5,), (7, 8, 9, 10), (5, 6)], [], [(377,)], [(5, 6), (5, 6), (2,)]]
        together = tiny.score(tiny.encode(asked[:4]), rows, OPTIONS)
        assert [[p.token_ids for p in row] for row in together] == rows
        for prompt, row, found in zip(asked, rows, together, strict=False):
            (alone,) = tiny.score(tiny.encode([prompt]), [row], OPTIONS)
            for one, other in zip(alone, found, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert together[0][2].logprobs[0] == pytest.approx(together[0][0].logprobs[0], abs=1e-5)

    def test_an_end_token_inside_an_answer_does_not_end_it(
        self, tiny: Any, asked: list[Prompt]
    ) -> None:
        (end,) = tiny.end_tokens
        ((one,),) = tiny.score(tiny.encode(asked[:1]), [[(5, end, 6)]], OPTIONS)
        assert len(one.logprobs) == 3

    def test_an_answer_without_tokens_is_refused(self, tiny: Any, asked: list[Prompt]) -> None:
        with pytest.raises(ValueError, match="no tokens"):
            tiny.score(tiny.encode(asked[:1]), [[()]], OPTIONS)


class TestTokens:
    def test_a_space_separates_template_and_answer(self, tiny: Any, asked: list[Prompt]) -> None:
        tokenizer = tiny.processor.tokenizer
        for text in ("A", "yes", "top left", "2"):
            rendered = tiny._render(asked[0])
            whole = tokenizer(f"{rendered} {text}", add_special_tokens=False).input_ids
            before = tokenizer(rendered, add_special_tokens=False).input_ids
            assert (*before, *tiny.tokens(asked[0], text)) == tuple(whole)
        # What is generated has the same tokens.
        (answer,) = tiny.generate(tiny.encode(asked[1:2]), OPTIONS)
        assert tiny.tokens(asked[1], answer.text) == answer.token_ids[:-1]

    def test_no_space_behind_a_template_that_ends_in_one(
        self, tmp_path_factory: pytest.TempPathFactory, asked: list[Prompt]
    ) -> None:
        source = checkpoints.make("qwen2_vl", tmp_path_factory.mktemp("qwen"))
        model = HfVlm(HfVlmConfig(source=str(source), device="cpu", threads=1))
        with model.open(model.request()) as loaded:
            assert loaded._render(asked[0])[-1] == "\n"  # type: ignore[attr-defined]
            tokens = loaded.tokens(asked[0], "yes")
            assert loaded.processor.tokenizer.decode(tokens) == "yes"  # type: ignore[attr-defined]
            assert set(loaded.encode([replace(asked[0], options=YES_NO)]).options[0]) == {
                "yes",
                "no",
            }

    def test_text_that_the_tokenizer_lacks_is_named(self, asked: list[Prompt]) -> None:
        with accelerated(None) as model:
            model.processor.tokenizer.unk_token = "ĠA"
            with pytest.raises(DataError, match="no tokens for 'A' as an answer that follows"):
                model.tokens(asked[0], "A")
            assert model.tokens(asked[0], "B")


class TestOptions:
    def test_probabilities_are_those_of_the_first_token(
        self, tiny: Any, asked: list[Prompt]
    ) -> None:
        encoded = tiny.encode(asked)
        options = replace(OPTIONS, top_tokens=len(tiny.processor.tokenizer))
        seen = set()
        for prompt, answer in zip(asked, tiny.generate(encoded, options), strict=True):
            seen.add(len(prompt.options))
            assert list(answer.options) == [option.id for option in prompt.options]
            if not prompt.options:
                assert answer.options_logprob is None
                continue
            logprob = {token.id: token.logprob for token in answer.top}
            raw = {o.id: logprob[tiny.tokens(prompt, o.texts[-1])[0]] for o in prompt.options}
            mass = sum(map(exp, raw.values()))
            assert answer.options_logprob == pytest.approx(log(mass), abs=1e-6)
            assert answer.options == pytest.approx(
                {i: value - log(mass) for i, value in raw.items()}, abs=1e-6
            )
            best = max(answer.options, key=lambda i: answer.options[i])
            assert answer.text in (best, "ABCD"["ABCD".find(best)])
        assert seen == {0, 2, 4}

    def test_ways_of_several_tokens_are_left_out_where_all_have_one_of_one(
        self, tiny: Any, asked: list[Prompt]
    ) -> None:
        yes, no = (tiny.tokens(asked[0], text) for text in ("yes", "no"))
        assert len(tiny.tokens(asked[0], "Yes")) > 1
        longer = (Option("yes", ("Yes", "yes")), Option("no", ("No way",)))
        both = [replace(asked[0], options=options) for options in (YES_NO, longer)]
        short, whole = tiny.encode(both).options
        assert short == {"yes": (yes,), "no": (no,)}
        assert [list(map(len, ways)) for ways in whole.values()] == [[3, 1], [6]]

    def test_they_cost_no_forward_pass(self, tiny: Any, asked: list[Prompt]) -> None:
        calls = []
        with Patch() as patch:
            patch.pre_hook(tiny.module, lambda *_: calls.append(1))
            tiny.generate(tiny.encode(asked), replace(OPTIONS, max_new_tokens=1))
        assert len(calls) == 1

    def test_ways_to_write_an_option_add_up(self, tiny: Any, asked: list[Prompt]) -> None:
        options = (Option("one", ("A", "B")), Option("other", ("C",)))
        single = tuple(Option(letter, (letter,)) for letter in "ABC")
        both = [replace(asked[4], options=items) for items in (options, single)]
        one, other = tiny.generate(tiny.encode(both), OPTIONS)
        expected = log(exp(other.options["A"]) + exp(other.options["B"]))
        assert one.options["one"] == pytest.approx(expected, abs=1e-6)
        assert one.options_logprob == pytest.approx(other.options_logprob, abs=1e-6)

    def test_options_that_begin_alike_are_not_told(
        self, tiny: Any, asked: list[Prompt], caplog: pytest.LogCaptureFixture
    ) -> None:
        options = (Option("10", ("top left",)), Option("11", ("top right",)), Option("2", ("2",)))
        prompt = replace(asked[0], options=options)
        with caplog.at_level(logging.WARNING):
            answers = tiny.generate(tiny.encode([prompt, prompt]), OPTIONS)
        assert [dict(answer.options) for answer in answers] == [{}, {}]
        (message,) = caplog.messages
        assert "the options 10, 11 begin with the same token as others" in message
