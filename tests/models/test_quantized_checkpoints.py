"""Checkpoints that were quantized elsewhere, compared with what they were made from."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stabfw_models.hf_vlm.files
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from stabfw.components import GenerationOptions, Image, Prompt
from stabfw.errors import DataError, Exit
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw_accelerators.replace import Replace, ReplaceConfig
from stabfw_benchmarks.shapes import scenes
from stabfw_models.hf_vlm import HfVlmConfig
from stabfw_models.llava import Llava

OUTSIDE = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]
FOUR_BITS = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}
EIGHT_BITS = {"num_bits": 8, "symmetric": True, "strategy": "channel"}
EACH_TOKEN = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}


@pytest.fixture(scope="module")
def original(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("llava")


@pytest.fixture(scope="module")
def four_bits(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "four-bits"
    quantize(original, folder, QuantizationArgs(**FOUR_BITS))
    return folder


def quantize(
    original: Path, folder: Path, weights: QuantizationArgs, inputs: QuantizationArgs | None = None
) -> None:
    """Write what llmcompressor would, with the package that it writes with: the decoder packed."""
    shutil.copytree(original, folder)
    module = transformers.LlavaForConditionalGeneration.from_pretrained(original)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    config = QuantizationConfig(config_groups={"decoder": scheme}, ignore=OUTSIDE)
    apply_quantization_config(module, config)
    for layer in module.modules():
        if hasattr(layer, "quantization_scheme"):
            groups = layer.weight.detach().unflatten(
                1, (-1, weights.group_size or layer.in_features)
            )
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), weights)
            layer.weight_scale.data.copy_(scale)
            if not weights.symmetric:
                layer.weight_zero_point.data.copy_(zero)
    compressor = ModelCompressor.from_pretrained_model(module)
    compressor.compress_model(module)
    module.save_pretrained(folder)
    compressor.update_config(str(folder))


def edit(folder: Path, **changes: Any) -> None:
    """Change the quantization that a checkpoint states."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {**config.get("quantization_config", {}), **changes}
    path.write_text(json.dumps(config))


def model(folder: Path) -> Llava:
    return Llava(HfVlmConfig(source=str(folder), device="cpu", dtype="float32", threads=1))


def decoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    with model(folder).open(model(folder).request()) as loaded:
        return {
            name: layer.weight.detach().clone()
            for name, layer in loaded.module.model.language_model.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }


def logprobs(folder: Path) -> list[Any]:
    """How sure a checkpoint is of its answers about four pictures."""
    pictures = [Image.from_pixels(scenes.generate("train", index).pixels) for index in range(4)]
    prompts = [Prompt(f"{i}", (p,), "what is this?") for i, p in enumerate(pictures)]
    with model(folder).open(model(folder).request()) as loaded:
        answers = loaded.generate(loaded.encode(prompts), GenerationOptions(max_new_tokens=4))
    return [answer.logprobs for answer in answers]


def test_packed_weights_are_restored_while_loading(original: Path, four_bits: Path) -> None:
    packed = (four_bits / "model.safetensors").stat().st_size
    assert packed < 0.6 * (original / "model.safetensors").stat().st_size
    # With the names of another version of transformers, as llmcompressor writes them.
    ignored = json.loads((four_bits / "config.json").read_text())["quantization_config"]["ignore"]
    assert "language_model.lm_head" in ignored
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = decoder_weights(four_bits)
    before = decoder_weights(original)
    assert found.keys() == before.keys()
    assert len(found) == 4 * 7
    for name, weight in before.items():
        groups = weight.unflatten(1, (-1, 32))
        low, high = groups.amin(-1, True).clamp(max=0), groups.amax(-1, True).clamp(min=0)
        step = (high - low) / 15
        zero = (-low / step).round()
        nearest = ((groups / step + zero).round().clamp(0, 15) - zero) * step
        # A weight in the middle between two integers may go to either.
        same = torch.isclose(found[name], nearest.flatten(1), atol=1e-5)
        assert same.float().mean() > 0.99
        assert not torch.allclose(found[name], weight, atol=1e-2)


def test_a_ready_checkpoint_is_compared_with_its_original(
    original: Path, four_bits: Path, tmp_path: Path
) -> None:
    registry = Registry()
    spec = parse_spec(
        {
            "stabfw": 1,
            "name": "ready",
            "models": [{"type": "llava", "source": str(original), "device": "cpu"}],
            "stacks": {"w4a16": [{"type": "replace", "source": str(four_bits)}]},
            "benchmarks": [{"type": "shapes", "limit": 8}],
            "controls": {"noise_floor": {"repeats": 1}},
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        },
        registry,
    )
    results = run(spec, registry=registry).results
    assert results.failures == ()
    (told,) = [cell.report["replace"] for cell in results.cells if "replace" in cell.report]
    assert told["engaged"] is True
    assert told["source"] == str(four_bits)
    assert logprobs(four_bits) != logprobs(original)


def test_activations_that_are_quantized_too_stay_so(original: Path, tmp_path: Path) -> None:
    weights = QuantizationArgs(**EIGHT_BITS)
    quantize(original, tmp_path / "w8a8", weights, QuantizationArgs(**EACH_TOKEN))
    quantize(original, tmp_path / "w8a16", weights)
    with pytest.raises(DataError, match=r"correct .* `ignore`.* re:\.\*lm_head"):
        decoder_weights(tmp_path / "w8a8")
    edit(tmp_path / "w8a8", ignore=OUTSIDE)
    assert logprobs(tmp_path / "w8a8") != logprobs(tmp_path / "w8a16")


@pytest.mark.parametrize(
    ("method", "packages", "install"),
    [
        ("awq", ["gptqmodel", "accelerate"], "gptqmodel accelerate"),
        ("gptq", ["gptqmodel", "optimum"], "gptqmodel optimum"),
        ("bitsandbytes", ["bitsandbytes", "accelerate"], '"stabfw[nf4]"'),
        ("compressed-tensors", ["compressed_tensors"], '"stabfw[compressed-tensors]"'),
    ],
)
def test_a_missing_loader_is_named_before_anything_is_run(
    method: str,
    packages: list[str],
    install: str,
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / method
    shutil.copytree(original, folder)
    edit(folder, quant_method=method)
    there = importlib.util.find_spec

    def find_spec(name: str) -> Any:
        return None if name in packages else there(name)

    monkeypatch.setattr(stabfw_models.hf_vlm.files.importlib.util, "find_spec", find_spec)
    request = Replace(ReplaceConfig(source=str(folder))).on_load(model(original).request())
    with pytest.raises(DataError) as refused:
        model(original).describe(request)
    assert str(refused.value) == (
        f"{folder}: its weights are quantized ({method}), and what loads them is not installed "
        f"({', '.join(packages)}): pip install {install}"
    )
    assert refused.value.exit_code is Exit.USAGE


def test_what_transformers_misses_for_other_methods_is_told(original: Path, tmp_path: Path) -> None:
    assert importlib.util.find_spec("aqlm") is None
    shutil.copytree(original, tmp_path / "aqlm")
    edit(tmp_path / "aqlm", quant_method="aqlm")
    with pytest.raises(DataError, match=r"cannot load the model: .*pip install aqlm"):
        decoder_weights(tmp_path / "aqlm")
