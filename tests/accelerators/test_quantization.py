"""Quantizers change the weights, shrink them, and leave most answers as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import stabfw_accelerators.bitsandbytes
import stabfw_accelerators.hqq
import stabfw_accelerators.int8
import torch
from bitsandbytes.functional import dequantize_4bit
from stabfw.components import Accelerator, LoadRequest, ModelInfo, Prediction, Slot
from stabfw.components.patch import weights_digest
from stabfw.errors import UnsupportedError
from stabfw_accelerators.bitsandbytes import LlmInt8, LlmInt8Config, Nf4, Nf4Config
from stabfw_accelerators.hqq import Hqq, HqqConfig
from stabfw_accelerators.int8 import Int8, Int8Config
from stabfw_models.tiny import TinyConfig, TinyLlava

Ask = Callable[..., list[Prediction]]


@contextmanager
def quantized(accelerator: Accelerator[Any]) -> Iterator[Any]:
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(accelerator.on_load(model.request())) as loaded:
        accelerator.transform(loaded, None)
        yield loaded


CASES = [
    pytest.param(Int8(Int8Config()), 0.35, 0.9, id="int8"),
    pytest.param(Hqq(HqqConfig(bits=8)), 0.35, 0.9, id="hqq-8"),
    pytest.param(Hqq(HqqConfig(bits=4)), 0.2, 0.8, id="hqq-4"),
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
        Int8(Int8Config()),
        Hqq(HqqConfig(bits=4)),
        LlmInt8(LlmInt8Config()),
        Nf4(Nf4Config(double_quant=True)),
    ],
)
def test_quantizing_is_deterministic(accelerator: Accelerator[Any], tiny: Any, ask: Ask) -> None:
    runs = []
    for _ in range(2):
        with quantized(accelerator) as model:
            runs.append((weights_digest(model.module), [p.logprobs for p in ask(model)]))
    assert runs[0] == runs[1]
    assert runs[0][0] != weights_digest(tiny.module)


@pytest.mark.parametrize("cls", [Int8, Hqq, LlmInt8, Nf4])
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
    assert changed(head=True) == {"language_model", "lm_head"}
    assert changed(vision=True) == {"language_model", "vision_tower", "multi_modal_projector"}


def test_group_size_that_does_not_fit_is_refused_before_anything_changes(tiny: Any) -> None:
    before = weights_digest(tiny.module)
    with pytest.raises(UnsupportedError, match="group_size 48 does not divide the 128 inputs"):
        Hqq(HqqConfig(group_size=48)).transform(tiny, None)
    assert weights_digest(tiny.module) == before


def test_compute_dtype_is_a_circumstance(ask: Ask) -> None:
    accelerator = Hqq(HqqConfig(bits=8, compute_dtype="bfloat16"))
    assert accelerator.alters == frozenset()
    with quantized(accelerator) as model:
        assert model.module.dtype is torch.bfloat16
        assert accelerator.report(model)["engaged"] is True
        assert accelerator.report(model)["bytes_before"] == 6 * (4 * 128**2 + 3 * 128 * 384) * 2


@pytest.mark.parametrize(
    "accelerator",
    [Int8(Int8Config()), Hqq(HqqConfig()), LlmInt8(LlmInt8Config()), Nf4(Nf4Config())],
)
def test_untouched_model_is_reported_as_not_engaged(
    accelerator: Accelerator[Any], tiny: Any
) -> None:
    assert accelerator.report(tiny)["engaged"] is False
    assert accelerator.report(tiny)["bytes_after"] == 0


@pytest.mark.parametrize(
    ("module", "accelerator", "extra"),
    [
        (stabfw_accelerators.int8, Int8(Int8Config()), "int8"),
        (stabfw_accelerators.hqq, Hqq(HqqConfig()), "hqq"),
        (stabfw_accelerators.bitsandbytes, LlmInt8(LlmInt8Config()), "llm-int8"),
        (stabfw_accelerators.bitsandbytes, Nf4(Nf4Config()), "nf4"),
    ],
)
def test_support(
    module: Any,
    accelerator: Accelerator[Any],
    extra: str,
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert accelerator.occupies == {Slot.WEIGHTS}
    assert accelerator.supports(tiny.info, tiny.request) is None
    assert "decoder" in str(accelerator.supports(ModelInfo("idefics3"), tiny.request))
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert f'pip install "stabfw[{extra}]"' in str(accelerator.supports(tiny.info, tiny.request))


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
