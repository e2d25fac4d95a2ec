"""Quantizers change the weights, shrink them, and leave most answers as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stabfw_accelerators.quantizer
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load
from stabfw.components import (
    Accelerator,
    Artefact,
    Example,
    FitData,
    Image,
    LoadRequest,
    ModelInfo,
    Prediction,
    Prompt,
    Slot,
)
from stabfw.components.patch import fingerprint, weights_digest
from stabfw.errors import UnsupportedError
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw_accelerators.awq import Awq, AwqConfig
from stabfw_accelerators.awq import method as awq
from stabfw_accelerators.bitsandbytes import LlmInt8, LlmInt8Config, Nf4, Nf4Config
from stabfw_accelerators.calibration import observe, sample_inputs
from stabfw_accelerators.fp8 import Fp8, Fp8Config
from stabfw_accelerators.gptq import Gptq, GptqConfig
from stabfw_accelerators.gptq import method as gptq
from stabfw_accelerators.hqq import Hqq, HqqConfig
from stabfw_accelerators.int8 import Int8, Int8Config
from stabfw_accelerators.linears import chosen_linears
from stabfw_accelerators.quantizer import Quantizer
from stabfw_accelerators.scaled import quantize_scaled
from stabfw_accelerators.smoothquant import SmoothQuant, SmoothQuantConfig
from stabfw_accelerators.smoothquant import method as smoothquant
from stabfw_benchmarks.shapes import scenes
from stabfw_models.tiny import TinyConfig, TinyLlava, TinyLlavaNext, TinyQwen2Vl, TinyQwen25Vl
from torchao.prototype import smoothquant as torchao_smoothquant
from torchao.prototype.awq import AWQConfig
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import quantize_

Ask = Callable[..., list[Prediction]]


#: What calibrated quantizers found, as calibrating takes seconds.
ARTEFACTS: dict[str, Artefact] = {}


def fitted(accelerator: Accelerator[Any], fresh: bool = False) -> Artefact | None:
    if not accelerator.needs_fit:
        return None
    key = f"{type(accelerator).__name__} {accelerator.config}"
    if fresh or key not in ARTEFACTS:
        model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
        with model.open(accelerator.on_load(model.request())) as loaded:
            ARTEFACTS[key] = accelerator.fit(loaded, scenes_of("train", 4))
    return ARTEFACTS[key]


def scenes_of(split: str, number: int) -> FitData:
    """Two questions on each of so many scenes that the shared prompts do not show."""
    found = []
    for index in range(number):
        scene = scenes.generate(split, index)
        image = Image.from_pixels(scene.pixels)
        for question in scenes.questions(scene, 2):
            text = question.text + scenes.render_choices(question.choices)
            found.append(Example(Prompt(f"{split}-{len(found)}", (image,), text)))
    return FitData(tuple(found))


@contextmanager
def quantized(accelerator: Accelerator[Any]) -> Iterator[Any]:
    artefact = fitted(accelerator)
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(accelerator.on_load(model.request())) as loaded:
        accelerator.transform(loaded, artefact)
        yield loaded


DECODER = {"vision": False, "head": False}
FAMILIES = [
    TinyLlava,
    pytest.param(TinyLlavaNext, marks=pytest.mark.slow),
    pytest.param(TinyQwen2Vl, marks=pytest.mark.slow),
    pytest.param(TinyQwen25Vl, marks=pytest.mark.slow),
]

QUANTIZERS: list[Any] = [Awq, Fp8, Gptq, SmoothQuant, Int8, Hqq, LlmInt8, Nf4]
CASES = [
    pytest.param(Awq(AwqConfig()), 0.35 / 2, 0.9, id="awq"),
    pytest.param(Fp8(Fp8Config()), 0.26, 0.9, id="fp8"),
    pytest.param(Gptq(GptqConfig()), 0.35 / 2, 0.9, id="gptq"),
    pytest.param(SmoothQuant(SmoothQuantConfig()), 0.27, 0.9, id="smoothquant"),
    pytest.param(Int8(Int8Config()), 0.35, 0.9, id="int8"),
    pytest.param(Hqq(HqqConfig(bits=8)), 0.35, 0.9, id="hqq-8"),
    pytest.param(Hqq(HqqConfig(bits=4)), 0.35 / 2, 0.8, id="hqq-4"),
    pytest.param(Hqq(HqqConfig(bits=3)), 0.15, 0.7, id="hqq-3"),
    pytest.param(Hqq(HqqConfig(bits=2)), 0.1, 0.5, id="hqq-2"),
    pytest.param(LlmInt8(LlmInt8Config()), 0.26, 0.9, id="llm-int8"),
    pytest.param(Nf4(Nf4Config()), 0.15, 0.8, id="nf4"),
    pytest.param(Nf4(Nf4Config(double_quant=True)), 0.135, 0.8, id="nf4-double"),
]


@pytest.mark.parametrize(("accelerator", "size", "same"), CASES)
def test_weights_shrink_and_most_answers_stay(
    accelerator: Accelerator[Any],
    size: float,
    same: float,
    ask: Ask,
    baseline: list[Prediction],
) -> None:
    with quantized(accelerator) as model:
        answers = ask(model)
        report = accelerator.report(model)
    assert report["engaged"] is True
    assert report["quantized_layers"] == 6 * 7
    assert report["bytes_before"] == 6 * (4 * 128 * 128 + 3 * 128 * 384) * 4
    assert 0 < report["bytes_after"] <= size * report["bytes_before"]
    pairs = list(zip(answers, baseline, strict=True))
    assert all(a.top != b.top for a, b in pairs)
    assert sum(a.token_ids == b.token_ids for a, b in pairs) >= same * len(pairs)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("cls", [Awq, Gptq, Hqq, Nf4])
def test_four_bits_take_a_third_of_half_precision_in_every_family(cls: Any, kind: Any) -> None:
    accelerator = cls(cls.config_cls(**({} if cls is Nf4 else {"group_size": 32})))
    model = kind(TinyConfig(device="cpu", dtype="bfloat16", threads=1))
    artefact = None
    if accelerator.needs_fit:
        with model.open(model.request()) as loaded:
            artefact = accelerator.fit(loaded, scenes_of("train", 1))
    with model.open(accelerator.on_load(model.request())) as loaded:
        accelerator.transform(loaded, artefact)
        report = accelerator.report(loaded)
        linears = {
            name: module
            for name, module in loaded.module.named_modules()
            if isinstance(module, torch.nn.Linear) and "language_model" in name
        }
        # What is no longer a plain layer of two bytes a weight.
        assert not any(type(x.weight) is torch.nn.Parameter for x in linears.values())
    assert accelerator.bits == 4
    assert report["quantized_layers"] == loaded.info.layers * 7
    assert 0 < report["bytes_after"] <= 0.35 * report["bytes_before"]


def test_fewer_bits_are_further_from_the_weights(tiny: Any) -> None:
    name = "model.language_model.layers.0.mlp.up_proj"
    weight = tiny.module.get_submodule(name).weight.detach()
    errors = []
    for bits in (8, 4, 3, 2):
        with quantized(Hqq(HqqConfig(bits=bits))) as model:
            restored = model.module.get_submodule(name).dequantize().detach()
        errors.append(float((restored - weight).abs().mean()))
    assert errors == sorted(errors)
    assert errors[0] < 0.01 * float(weight.abs().mean())


@pytest.mark.parametrize(
    "accelerator",
    [
        Awq(AwqConfig()),
        Fp8(Fp8Config()),
        Gptq(GptqConfig()),
        SmoothQuant(SmoothQuantConfig()),
        Int8(Int8Config()),
        Hqq(HqqConfig(bits=4)),
        LlmInt8(LlmInt8Config()),
        Nf4(Nf4Config(double_quant=True)),
    ],
)
def test_quantizing_is_deterministic(
    accelerator: Accelerator[Any], tiny: Any, ask: Ask, prompts: tuple[Prompt, ...]
) -> None:
    runs = []
    for _ in range(2):
        fitted(accelerator, fresh=True)
        with quantized(accelerator) as model:
            runs.append(
                (weights_digest(model.module), [p.logprobs for p in ask(model, some=prompts[:8])])
            )
    assert runs[0] == runs[1]
    assert runs[0][0] != weights_digest(tiny.module)


@pytest.mark.parametrize("cls", QUANTIZERS)
def test_only_the_chosen_parts_change(cls: Any, tiny: Any) -> None:
    def changed(**parts: bool) -> set[str]:
        accelerator = cls(cls.config_cls(**parts))
        with quantized(accelerator) as model:
            now = {
                name: type(module).__name__ + type(getattr(module, "weight", None)).__name__
                for name, module in model.module.named_modules()
            }
        return {
            name.split(".")[0] if name == "lm_head" else name.split(".")[1]
            for name, module in tiny.module.named_modules()
            if now[name] != type(module).__name__ + type(getattr(module, "weight", None)).__name__
        }

    assert changed() == {"language_model"}
    if cls not in (Awq, Gptq):  # They do not take the sizes of this head.
        assert changed(head=True) == {"language_model", "lm_head"}
    assert changed(vision=True) == {"language_model", "vision_tower", "multi_modal_projector"}


def test_group_size_that_does_not_fit_is_refused_before_anything_changes(tiny: Any) -> None:
    before = weights_digest(tiny.module)
    with pytest.raises(UnsupportedError, match="group_size 48 does not divide the 128 inputs"):
        Hqq(HqqConfig(group_size=48)).transform(tiny, None)
    assert weights_digest(tiny.module) == before


def test_groups_that_cannot_be_packed_are_refused(tiny: Any) -> None:
    assert tiny.module.lm_head.out_features % 2
    why = "457 groups of 128, but hqq packs 2 numbers"
    with pytest.raises(UnsupportedError, match=why):
        Hqq(HqqConfig(group_size=128, head=True)).transform(tiny, None)
    with pytest.raises(UnsupportedError, match=why):
        Gptq(GptqConfig(head=True)).fit(tiny, FitData(()))


def test_compute_dtype_is_a_circumstance(ask: Ask) -> None:
    accelerator = Hqq(HqqConfig(bits=8, compute_dtype="bfloat16"))
    assert accelerator.alters == frozenset()
    with quantized(accelerator) as model:
        assert model.module.dtype is torch.bfloat16
        assert accelerator.report(model)["engaged"] is True
        assert accelerator.report(model)["bytes_before"] == 6 * (4 * 128**2 + 3 * 128 * 384) * 2


@pytest.mark.parametrize("accelerator", [cls(cls.config_cls()) for cls in QUANTIZERS])
def test_untouched_model_is_reported_as_not_engaged(
    accelerator: Accelerator[Any], tiny: Any
) -> None:
    assert accelerator.report(tiny)["engaged"] is False
    assert accelerator.report(tiny)["bytes_after"] == 0


@pytest.mark.parametrize("accelerator", [cls(cls.config_cls()) for cls in QUANTIZERS])
def test_support(accelerator: Quantizer[Any], tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accelerator.occupies == {Slot.WEIGHTS}
    assert accelerator.supports(tiny.info, tiny.request) is None
    assert "decoder" in str(accelerator.supports(ModelInfo("idefics3"), tiny.request))
    monkeypatch.setattr(stabfw_accelerators.quantizer, "find_spec", lambda _: None)
    why = str(accelerator.supports(tiny.info, tiny.request))
    assert f'pip install "stabfw[{accelerator.name}]"' in why


def test_nf4_multiplies_in_the_dtype_of_the_model_on_any_cpu() -> None:
    """Where a CPU can, bitsandbytes would round the activations to bfloat16 on its own."""
    with quantized(Nf4(Nf4Config(head=True))) as model:
        layer = model.module.lm_head
        assert layer.out_features % 32, "the kernel for such CPUs would refuse other sizes"
        states = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found = layer(states)
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.allclose(found, states @ weight.T, atol=1e-5)


def test_llm_int8_leaves_columns_with_outliers_as_they_are() -> None:
    """Without it, one outlier would take the eight bits from all other activations of a token."""
    states = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    states[:, 7] = 60.0
    errors = {}
    for threshold in (0.0, 6.0):
        with quantized(LlmInt8(LlmInt8Config(threshold=threshold))) as model:
            layer = model.module.model.language_model.layers[0].mlp.up_proj
            with torch.inference_mode():
                found = layer(states)
            weight = layer.state.CB * layer.state.SCB[:, None] / 127
        errors[threshold] = float((found - states @ weight.T).abs().mean())
    assert errors[6.0] < 0.1 * errors[0.0]


def test_quantizing_while_loading_keeps_the_place_that_was_asked_for() -> None:
    accelerator = Nf4(Nf4Config())
    there = accelerator.on_load(LoadRequest("x", device="cuda:1", dtype="bfloat16"))
    assert there.options["device_map"] == {"": "cuda:1"}
    assert there.options["quantization_config"]["bnb_4bit_compute_dtype"] == "bfloat16"
    spread = accelerator.on_load(LoadRequest("x", options={"device_map": "auto"}))
    assert spread.options["device_map"] == "auto"
    assert (there.dtype, there.device) == ("bfloat16", "cuda:1")


@pytest.mark.parametrize("group_size", [32, 128])
def test_awq_finds_the_scales_of_torchao_and_multiplies_as_it_does(group_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    # Channels that differ as those of language models do.
    inputs = torch.randn(200, 128, generator=generator) * torch.logspace(-1, 1, 128)
    scales = awq.search(weight, inputs, group_size, 20)
    assert scales.max() > 3 * scales.min()

    base = PrototypeInt4WeightOnlyConfig(group_size, set_inductor_config=False)
    theirs = torch.nn.Sequential(bare(weight))
    quantize_(theirs, AWQConfig(base, step="prepare"))
    theirs(inputs)
    quantize_(theirs, AWQConfig(base, step="convert"), lambda layer, _: hasattr(layer, "act_obs"))
    ours, nearest = bare(weight), bare(weight)
    quantize_scaled(ours, base, scales)
    quantize_(nearest, base)
    assert torch.allclose(scales, 1 / theirs[0].weight.act_pre_scale, rtol=1e-5)
    assert torch.allclose(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-4)

    exact = inputs @ weight.T
    assert (ours(inputs) - exact).norm() < 0.98 * (nearest(inputs) - exact).norm()
    rounded = awq.round_in_groups(weight, group_size)
    assert torch.allclose(nearest(inputs), inputs @ rounded.T, rtol=1e-4, atol=1e-3)


def bare(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(*weight.T.shape, bias=False)
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return layer


def test_awq_is_closer_than_rounding_on_questions_that_it_was_not_calibrated_on(
    tiny: Any,
) -> None:
    accelerator = Awq(AwqConfig(group_size=32))
    artefact = fitted(accelerator)
    assert artefact is not None
    scales = load(artefact.data)
    linears = chosen_linears(tiny, vision=False, head=False)
    assert scales.keys() == linears.keys()
    inputs = sample_inputs(tiny, linears, scenes_of("validation", 4), 64)
    closer = []
    for name, linear in linears.items():
        weight, own = linear.weight.detach(), scales[name]
        exact = inputs[name] @ weight.T
        nearest = inputs[name] @ awq.round_in_groups(weight, 32).T
        scaled = (inputs[name] / own) @ awq.round_in_groups(weight * own, 32).T
        closer.append(float((scaled - exact).norm() / (nearest - exact).norm()))
    assert sum(ratio <= 1 for ratio in closer) > 0.9 * len(closer)


def test_calibration_sees_every_token_once_and_leaves_the_model_alone(tiny: Any) -> None:
    name = "model.language_model.layers.0.self_attn.q_proj"
    linears = {name: tiny.module.get_submodule(name)}
    before, asked, seen = fingerprint(tiny.module), scenes_of("train", 2), []
    observe(tiny, linears, asked, lambda _, inputs: seen.append(inputs))
    lengths = [tiny.encode([prompt]).inputs["input_ids"].shape[1] for prompt in asked.prompts]
    assert [len(inputs) for inputs in seen] == lengths
    assert fingerprint(tiny.module) == before
    # Even distances, both ends included; a small share of each prompt.
    (kept,) = sample_inputs(tiny, linears, asked, 12).values()
    assert torch.equal(kept[:3], seen[0][[0, round((lengths[0] - 1) / 2), -1]])
    (everything,) = sample_inputs(tiny, linears, asked, 10**6).values()
    assert torch.equal(everything, torch.cat(seen))


def test_calibration_on_text_alone_cannot_tell_of_the_vision_tower(tiny: Any) -> None:
    accelerator = Awq(AwqConfig(vision=True))
    with pytest.raises(UnsupportedError, match="layers saw no data"):
        accelerator.fit(tiny, FitData((Example(Prompt("text", (), "what is a square?")),)))


def test_awq_says_which_sizes_and_places_its_kernels_do_not_take(tiny: Any) -> None:
    accelerator = Awq(AwqConfig(head=True))
    assert tiny.module.lm_head.out_features % 16
    with pytest.raises(UnsupportedError, match="multiple of 16 outputs"):
        accelerator.fit(tiny, scenes_of("train", 1))
    half = replace(tiny.request, device="cuda:0", dtype="float16")
    assert "`dtype: bfloat16`" in str(accelerator.supports(tiny.info, half))
    assert accelerator.supports(tiny.info, replace(half, dtype="bfloat16")) is None
    assert "mps" in str(accelerator.supports(tiny.info, replace(half, device="mps")))


def test_smoothquant_smooths_as_torchao_does_and_spares_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    inputs = torch.randn(200, 128, generator=generator)
    inputs[:, 7] *= 60.0
    factors = smoothquant.factors(weight, inputs.abs().amax(0), 0.5)

    theirs = torch.nn.Sequential(bare(weight))
    config = torchao_smoothquant.SmoothQuantConfig
    quantize_(theirs, config(smoothquant.rounding(), step="prepare", alpha=0.5))
    theirs(inputs)
    quantize_(
        theirs,
        config(smoothquant.rounding(), step="convert"),
        lambda layer, _: isinstance(layer, torchao_smoothquant.SmoothQuantObservedLinear),
    )
    ours, plain = bare(weight), bare(weight)
    quantize_scaled(ours, smoothquant.rounding(), factors)
    quantize_(plain, smoothquant.rounding())
    assert torch.equal(ours(inputs), theirs(inputs))
    exact = inputs @ weight.T
    assert (ours(inputs) - exact).norm() < 0.5 * (plain(inputs) - exact).norm()


def test_smoothquant_rounds_activations_of_a_token_whatever_else_is_in_the_batch() -> None:
    with quantized(SmoothQuant(SmoothQuantConfig())) as model:
        layer = model.module.model.language_model.layers[0].mlp.up_proj
        states = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
        alone = layer(states)
        together = layer(torch.cat([states, 100 * states]))[:5]
        exact = states * layer.weight.act_pre_scale @ layer.weight.dequantize().T
    assert torch.equal(alone, together)
    assert 0 < (alone - exact).norm() < 0.02 * exact.norm()


def test_fp8_multiplies_with_what_it_stores(tiny: Any) -> None:
    name = "model.language_model.layers.0.mlp.up_proj"
    weight = tiny.module.get_submodule(name).weight.detach()
    with quantized(Fp8(Fp8Config())) as model:
        layer = model.module.get_submodule(name)
        restored = layer.weight.dequantize()
        states = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
        assert layer.weight.qdata.dtype is torch.float8_e4m3fn
        assert torch.allclose(layer(states), states @ restored.T, atol=1e-5)
    # Three bits of mantissa: a sixteenth of a number at most, but for the smallest ones.
    large = weight.abs() > 0.05 * weight.abs().amax(1, keepdim=True)
    errors = (restored - weight).abs() / weight.abs()
    assert float(errors[large].max()) <= 1 / 16 + 1e-6


def test_fp8_rounds_activations_only_where_they_can_be_multiplied(tiny: Any) -> None:
    accelerator = Fp8(Fp8Config(activations=True))
    assert "cpu cannot multiply in fp8" in str(accelerator.supports(tiny.info, tiny.request))
    half = replace(tiny.request, device="cuda:0", dtype="float16")
    assert "bfloat16" in str(accelerator.supports(tiny.info, half))
    assert accelerator.supports(tiny.info, replace(half, dtype="bfloat16")) is None


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_gptq_rounds_to_nearest_where_inputs_are_not_related(bits: int) -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    rounded = gptq.solve(weight, torch.eye(64), bits, 32, 0.01)
    assert set(rounded.codes.unique().tolist()) <= set(range(2**bits))
    step = rounded.scale.repeat_interleave(32, dim=1)
    zero = rounded.zero.repeat_interleave(32, dim=1)
    lowest, highest = -zero * step, (2**bits - 1 - zero) * step
    groups = weight.reshape(16, 2, 32)
    span = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / (2**bits - 1)
    assert torch.allclose(rounded.scale, span)
    nearest = (weight / step).round() * step
    assert torch.allclose(rounded.restored(), nearest.clamp(lowest, highest), atol=1e-5)
    # 0 stays 0: pruned weights remain so.
    assert torch.equal(rounded.zero, rounded.zero.round())


def test_gptq_makes_up_for_what_rounding_loses() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    # Inputs of few causes, as those of language models are.
    inputs = torch.randn(400, 16, generator=generator) @ torch.randn(16, 128, generator=generator)
    inputs += 0.1 * torch.randn(400, 128, generator=generator)
    seen, unseen = inputs[:300], inputs[300:]
    rounded = gptq.solve(weight, seen.T @ seen, 4, 32, 0.01).restored()
    nearest = gptq.solve(weight, torch.eye(128), 4, 32, 0.01).restored()
    exact = unseen @ weight.T
    assert (unseen @ rounded.T - exact).norm() < 0.5 * (unseen @ nearest.T - exact).norm()


def test_gptq_multiplies_with_what_it_found_and_looks_at_rounded_layers(tiny: Any) -> None:
    accelerator = Gptq(GptqConfig(group_size=32))
    asked = scenes_of("train", 2)
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as loaded:
        artefact = accelerator.fit(loaded, asked)
        # What is thrown away holds the rounded weights: what it answers is what will be answered.
        kept = {n: x.weight.clone() for n, x in chosen_linears(loaded, **DECODER).items()}
        last = "model.language_model.layers.5.self_attn.q_proj"
        linears = {last: loaded.module.get_submodule(last)}
        inputs = sample_inputs(loaded, linears, asked, 10**6)[last]
    with model.open(model.request()) as loaded:
        accelerator.transform(loaded, artefact)
        generator = torch.Generator().manual_seed(0)
        for name, weight in kept.items():
            states = torch.randn(3, weight.shape[1], generator=generator)
            found = loaded.module.get_submodule(name)(states)
            assert torch.allclose(found, states @ weight.T, atol=1e-4)
    rounded = gptq.solve(
        tiny.module.get_submodule(last).weight, inputs.T @ inputs, 4, 32, 0.01
    ).restored()
    assert torch.allclose(rounded, kept[last], atol=1e-4)


def test_gptq_keeps_the_order_of_the_model(tiny: Any) -> None:
    linears = chosen_linears(tiny, vision=True, head=True)
    turns = gptq.in_turn(tiny, linears)
    assert sorted(name for names in turns for name in names) == sorted(linears)
    assert [len(names) for names in turns[1:]] == [7] * 6 + [1]
    assert all("vision" in name or "projector" in name for name in turns[0])
    assert all(f"layers.{number}." in name for number in range(6) for name in turns[1 + number])


def test_a_spec_names_the_data_and_the_report_the_artefact(tmp_path: Path) -> None:
    registry = Registry()
    spec = parse_spec(
        {
            "stabfw": 1,
            "name": "calibrated",
            "models": ["tiny-llava"],
            "stacks": {"smooth": ["smoothquant"], "gptq+fastv": ["gptq", "fastv"]},
            "benchmarks": [{"type": "shapes", "limit": 8}],
            "calibration": {"benchmark": "shapes", "split": "train", "limit": 4},
            "controls": {"noise_floor": None},
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        },
        registry,
    )
    results = run(spec, registry=registry).results
    assert results.failures == ()
    told = {name: report for cell in results.cells for name, report in cell.report.items()}
    kept = {path.name for path in (tmp_path / "store" / "artefacts").iterdir()}
    assert {told[name]["artefact"] for name in ("smoothquant", "gptq")} == kept
    assert told["gptq"]["engaged"] is told["fastv"]["engaged"] is True
    assert "artefact" not in told["fastv"]
