"""A run counts what its prefills cost, and counting leaves every answer as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from stabfw.components import GenerationOptions, Image, Kind, Prompt
from stabfw.components.costs import Convention, Schedule, prefill
from stabfw.components.patch import Patch
from stabfw.components.schedules import keep
from stabfw.execute.prefill import counted_prefill
from stabfw.experiment import run
from stabfw.plan import Role
from stabfw.registry import Registry
from stabfw.report.layout import REPORT
from stabfw.spec import parse_spec
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig

OPTIONS = GenerationOptions(max_new_tokens=3)
SIZE = (150, 70)


def asked(*texts: str) -> list[Prompt]:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    return [Prompt(str(i), (Image.from_pixels(pixels),), text) for i, text in enumerate(texts)]


def load(source: Path) -> HfVlm:
    return HfVlm(HfVlmConfig(source=str(source), device="cpu", threads=1))


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_count_equals_the_closed_form(family: str, tmp_path: Path) -> None:
    made = load(checkpoints.make(family, tmp_path))
    architecture = made.architecture()
    image = architecture.image(*SIZE)
    with made.open(made.request()) as model:
        encoded = model.encode(asked("is it red?", "how many rectangles are there?"))
        before = model.generate(encoded, OPTIONS)
        with counted_prefill(model) as counted:
            during = model.generate(encoded, OPTIONS)
        assert [p.logprobs for p in during] == [p.logprobs for p in before]
    # Shorter prompts are padded, so each costs what the longest one does.
    text = encoded.inputs["input_ids"].shape[1] - image.visual_tokens
    schedule = keep(architecture.decoder.layers, image.visual_tokens, {})
    parts = prefill(architecture, [image], text, schedule, head="last")
    expected = sum(flops.counted(Convention.LINEAR) for flops in parts.values())
    assert counted["linear_flops"] == expected


#: Config of each token method.
METHODS: dict[str, dict[str, Any]] = {
    "dart": {"keep_ratio": 0.25},
    "divprune": {"keep_ratio": 0.25},
    "fastv": {"keep_ratio": 0.25},
    "holov": {"keep_ratio": 0.25},
    "lofi": {"keep_ratio": 0.25},
    "pool": {},
    "prumerge": {},
    "pyramiddrop": {},
    "random-drop": {"keep_ratio": 0.25},
    "sparsevlm": {"keep_ratios": (0.5, 0.25, 0.125)},
    "tome": {},
    "uniform": {"keep_ratio": 0.25},
    "visionzip": {"keep_ratio": 0.25},
    "vtw": {},
}
#: Those that choose by attention or keys in the decoder, with their stages, or in the tower.
IN_DECODER = {"dart": 1, "fastv": 1, "pyramiddrop": 3, "sparsevlm": 3}
IN_TOWER = {"holov", "prumerge", "visionzip"}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("name", METHODS)
def test_count_with_fewer_tokens_equals_the_closed_form(
    name: str, family: str, checkpoint: Callable[[str], Path]
) -> None:
    """That of the tokens that each layer is said to have seen, beside what the choice costs."""
    made = load(checkpoint(family))
    architecture = made.architecture()
    image = architecture.image(*SIZE)
    component = Registry().load(Kind.ACCELERATOR, name)
    method: Any = component(component.config_cls(**METHODS[name]))
    with made.open(made.request()) as model, Patch() as patch:
        method.attach(model, None, patch)
        encoded = model.encode(asked("is it red?"))
        with counted_prefill(model) as counted:
            (answer,) = model.generate(encoded, OPTIONS)
    assert answer.visual_tokens[-1] < image.visual_tokens
    text = encoded.inputs["input_ids"].shape[1] - image.visual_tokens
    parts = prefill(architecture, [image], text, Schedule(answer.visual_tokens), head="last")
    chosen = counted["linear_flops"] - sum(p.counted(Convention.LINEAR) for p in parts.values())
    # Queries and keys are less than the whole layer.
    layer = architecture.decoder.layer(text + image.visual_tokens).linear
    if name in IN_DECODER:
        assert 0 < chosen < 0.5 * IN_DECODER[name] * layer
    elif name in IN_TOWER:
        assert 0 < chosen < parts["vision tower"].linear
    else:
        assert chosen == 0


@pytest.mark.parametrize(
    ("name", "config"), [("hqq", {"bits": 4, "group_size": 16}), ("int8", {})], ids=["hqq", "int8"]
)
def test_quantized_layers_count_for_what_they_stand_for(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    made = load(checkpoints.make("llava", tmp_path))
    component = Registry().load(Kind.ACCELERATOR, name)
    quantizer: Any = component(component.config_cls(**config))
    counts = []
    for transform in (False, True):
        with made.open(made.request()) as model, Patch() as patch:
            if transform:
                quantizer.transform(model, None)
                quantizer.attach(model, None, patch)
            encoded = model.encode(asked("is it red?"))
            with counted_prefill(model) as counted:
                model.generate(encoded, OPTIONS)
            if transform:
                assert quantizer.report(model)["engaged"] is True
        counts.append(counted)
    assert counts[0]["linear_flops"] > 0
    assert counts[0] == counts[1]


def test_compiled_models_are_not_counted(tmp_path: Path) -> None:
    made = load(checkpoints.make("llava", tmp_path))
    with made.open(made.request()) as model:
        # It is compiled when it is first called, which this one never is.
        model.module.lm_head.compile()
        with counted_prefill(model) as counted:
            pass
    assert counted == {"linear_flops": "not counted: the model is compiled"}


def test_hooks_are_gone_afterwards(tmp_path: Path) -> None:
    import torch

    made = load(checkpoints.make("llava", tmp_path))
    opened = made.open(made.request())
    with opened as model, pytest.raises(ZeroDivisionError), counted_prefill(model):
        raise ZeroDivisionError
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_run_reports_it(tmp_path: Path) -> None:
    registry = Registry()
    spec = parse_spec(
        {
            "stabfw": 1,
            "name": "costs",
            "models": ["tiny-llava"],
            "stacks": {"drop": [{"type": "random-drop", "layer": 1, "keep_ratio": 0.25}]},
            "benchmarks": [{"type": "shapes", "limit": 12}],
            "generation": {"max_new_tokens": 2},
            "batch_size": 4,
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        },
        registry,
    )
    done = run(spec, registry=registry)
    # Later batches are not counted, and what the first one told stands.
    told = {cell.condition.role: cell.report["prefill"] for cell in done.results.cells}
    reports = {"baseline": told[Role.BASELINE], "drop": told[Role.STACK]}
    assert reports["drop"]["linear_layers"] == reports["baseline"]["linear_layers"]
    model: Any = registry.load(Kind.MODEL, "tiny-llava")
    decoder = model(model.config_cls()).architecture().decoder
    dropped = decoder.layer(100).linear // 100 * (decoder.layers - 1) * (64 - 16)
    saved: Any = reports["baseline"]["linear_flops"]
    assert saved - reports["drop"]["linear_flops"] == dropped
    assert f"{saved:,}" in (done.directory / REPORT).read_text()
