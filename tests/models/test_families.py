"""Checkpoints of every family are loaded from disk, answered in batches and accelerated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from bitsandbytes.nn import Linear4bit
from stabfw.components import GenerationOptions, Image, Kind, Model, Prompt
from stabfw.components.patch import Patch
from stabfw.errors import DataError, UnsupportedError
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw.testing import run_checks
from stabfw_accelerators.linears import chosen_linears
from stabfw_models.hf_vlm.files import ANATOMY_FAMILIES

PLUGINS = {
    "llava": "llava",
    "llava-next": "llava_next",
    "qwen2-vl": "qwen2_vl",
    "qwen2.5-vl": "qwen2_5_vl",
}
OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry()


def model(registry: Registry, plugin: str, source: Path, **fields: Any) -> Model[Any]:
    cls = registry.load(Kind.MODEL, plugin)
    made = cls(cls.config_cls(source=str(source), device="cpu", threads=1, **fields))
    assert isinstance(made, Model)
    return made


def prompts(sizes: list[list[tuple[int, int]]]) -> list[Prompt]:
    """Questions with noise pictures of given heights and widths."""
    rng = np.random.default_rng(0)
    return [
        Prompt(
            f"{number}",
            tuple(
                Image.from_pixels(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in row
            ),
            "how many rectangles are there?" + " is there a red cross?" * (number % 3),
        )
        for number, row in enumerate(sizes)
    ]


RAGGED = prompts([[size] for size in ((60, 60), (150, 70), (70, 150), (200, 200), (40, 90))])
SEVERAL = prompts([[(60, 60), (150, 70)], [(70, 150)], [(60, 60), (60, 60)]])


@pytest.mark.parametrize("plugin", PLUGINS)
def test_model_keeps_to_the_contracts(
    plugin: str, checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    config = {"source": str(checkpoint(PLUGINS[plugin])), "device": "cpu", "dtype": "float32"}
    results = run_checks("model", plugin, config, registry)
    assert [r for r in results if not r.status.good] == []


@pytest.mark.parametrize("asked", [RAGGED, SEVERAL], ids=["ragged", "several"])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_answers_do_not_depend_on_the_batch(
    family: str, asked: list[Prompt], checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    made = model(registry, "hf-vlm", checkpoint(family))
    with made.open(made.request()) as loaded:
        together = loaded.generate(loaded.encode(asked), OPTIONS)
        alone = [p for one in asked for p in loaded.generate(loaded.encode([one]), OPTIONS)]
    assert [p.token_ids for p in together] == [p.token_ids for p in alone]
    assert len({p.token_ids for p in together}) > 1
    if loaded.info.has_anatomy:
        assert [p.visual_tokens for p in together] == [p.visual_tokens for p in alone]
        assert all(min(p.visual_tokens) > 0 for p in together)


TRIED: dict[str, dict[str, Any]] = {
    "fastv": {"keep_ratio": 0.25},
    "hqq": {"bits": 3, "group_size": 16},
}
#: Tried on one of these families by `make test`, and on all of them by `make check-all`.
TRIED_ON_ONE: dict[str, dict[str, Any]] = {
    "divprune": {"keep_ratio": 0.25},
    "int8": {},
    "prompt-lookup": {},
    "pyramiddrop": {},
    "visionzip": {"keep_ratio": 0.25},
    "vtw": {},
}
#: Tried on `tiny-llava` by `make test`, and on these families by `make check-all` only.
TRIED_LATER: dict[str, dict[str, Any]] = {
    "awq": {"group_size": 32},
    "dart": {"keep_ratio": 0.25},
    "fp8": {},
    "gptq": {"group_size": 16},
    "holov": {"keep_ratio": 0.25},
    "kv-cache": {"group_size": 8, "bits": 2},
    # With a threshold, outliers are looked for in the whole batch, which one check is against.
    "llm-int8": {"threshold": 0},
    "lofi": {},
    "nf4": {},
    "pool": {},
    "prumerge": {"plus": True, "keep_ratio": 0.25},
    "random-drop": {},
    "smoothquant": {},
    "sparsevlm": {},
    "tome": {},
    "uniform": {},
}
FAST = "qwen2.5-vl"
#: The last bits decide to which side an activation is rounded, and random weights are not sure of
#: any answer.
KNOWN = {"smoothquant": {"check_batch_equals_single": "activations are rounded"}}


def is_slow(plugin: str, accelerator: str) -> bool:
    return accelerator not in (TRIED | TRIED_ON_ONE if plugin == FAST else TRIED)


@pytest.mark.parametrize(
    ("plugin", "accelerator", "config"),
    [
        pytest.param(
            plugin,
            accelerator,
            config,
            id=f"{plugin}-{accelerator}",
            marks=[pytest.mark.slow] if is_slow(plugin, accelerator) else [],
        )
        for plugin in PLUGINS
        for accelerator, config in {**TRIED, **TRIED_ON_ONE, **TRIED_LATER}.items()
    ],
)
def test_accelerators_keep_to_the_contracts(
    plugin: str,
    accelerator: str,
    config: dict[str, Any],
    checkpoint: Callable[[str], Path],
    registry: Registry,
) -> None:
    made = model(registry, plugin, checkpoint(PLUGINS[plugin]))
    known = KNOWN.get(accelerator, {})
    results = run_checks("accelerator", accelerator, config, registry, known, model=made)
    assert [r for r in results if not r.status.good] == []


@pytest.mark.parametrize("vision", [False, True], ids=["decoder", "vision"])
@pytest.mark.parametrize("family", sorted(ANATOMY_FAMILIES.keys() & checkpoints.FAMILIES.keys()))
def test_quantizing_while_loading_finds_the_same_layers_as_in_memory(
    family: str, vision: bool, checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    made = model(registry, "hf-vlm", checkpoint(family))
    chosen = registry.load(Kind.ACCELERATOR, "nf4")
    nf4 = chosen(chosen.config_cls(vision=vision))
    with made.open(made.request()) as loaded:
        expected = set(chosen_linears(loaded, vision=vision, head=False))
    with made.open(nf4.on_load(made.request())) as loaded:
        nf4.transform(loaded, None)
        assert loaded.module is not None
        found = {n for n, m in loaded.module.named_modules() if isinstance(m, Linear4bit)}
        assert nf4.report(loaded)["quantized_layers"] == len(expected)
    assert found == expected


def test_output_projection_that_is_the_embedding_cannot_be_quantized_while_loading(
    checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    made = model(registry, "hf-vlm", checkpoint("internvl"))
    for name in ("llm-int8", "nf4"):
        chosen = registry.load(Kind.ACCELERATOR, name)
        accelerator = chosen(chosen.config_cls(head=True))
        with (
            made.open(accelerator.on_load(made.request())) as loaded,
            pytest.raises(UnsupportedError, match="lm_head shares its weight"),
        ):
            accelerator.transform(loaded, None)


BEYOND = sorted(checkpoints.FAMILIES.keys() - set(PLUGINS.values()))


@pytest.mark.parametrize(
    ("accelerator", "config"),
    [
        pytest.param("fastv", {"keep_ratio": 0.25}, id="fastv"),
        pytest.param("hqq", {"bits": 3, "group_size": 16}, id="hqq", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("family", BEYOND)
def test_other_families_are_accelerated_or_say_why_not(
    family: str,
    accelerator: str,
    config: dict[str, Any],
    checkpoint: Callable[[str], Path],
    registry: Registry,
) -> None:
    made = model(registry, "hf-vlm", checkpoint(family))
    chosen = registry.load(Kind.ACCELERATOR, accelerator)
    reason = ANATOMY_FAMILIES[family]
    if accelerator == "fastv" and reason:
        one = chosen(chosen.config_cls(**config))
        why = one.supports(made.describe(made.request()), made.request())
        assert why == f"visual tokens cannot be dropped: {reason}"
        return
    results = run_checks("accelerator", accelerator, config, registry, model=made)
    assert [r for r in results if not r.status.good] == []


def test_one_spec_compares_all_families(registry: Registry, tmp_path: Path) -> None:
    spec = parse_spec(
        {
            "stabfw": 1,
            "name": "families",
            "models": ["tiny-llava", "tiny-llava-next", "tiny-qwen2-vl", "tiny-qwen2.5-vl"],
            "stacks": {
                "fastv": [{"type": "fastv", "layer": 1, "keep_ratio": 0.25}],
                "hqq+fastv": [{"type": "hqq", "bits": 3, "group_size": 16}, "fastv"],
                "nf4+fastv": ["nf4", "fastv"],
            },
            "benchmarks": [{"type": "shapes", "limit": 24}],
            "controls": {"noise_floor": {"repeats": 1}},
            "generation": {"max_new_tokens": 4},
            "batch_size": 4,
            "store": str(tmp_path / "store"),
            "runs": str(tmp_path / "runs"),
            "tracking": {"uri": None},
        },
        registry,
    )
    results = run(spec, registry=registry).results
    assert results.failures == ()
    assert len(results.comparisons) == 12
    assert all(c.floor["divergence_ratio"].value == 0 for c in results.comparisons)
    assert any(c.metrics["divergence_ratio"].value for c in results.comparisons)


def test_limits_of_the_picture_set_the_number_of_visual_tokens(
    checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    def visual_tokens(**limits: int) -> int:
        made = model(registry, "qwen2-vl", checkpoint("qwen2_vl"), **limits)
        with made.open(made.request()) as loaded:
            (answer,) = loaded.generate(loaded.encode(prompts([[(112, 112)]])), OPTIONS)
        return answer.visual_tokens[0]

    # A visual token covers 28 x 28 pixels.
    assert visual_tokens() == 16
    assert visual_tokens(max_pixels=84 * 84) == 9
    assert visual_tokens(min_pixels=140 * 140) == 25


def test_limits_are_part_of_how_a_model_is_loaded(
    checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    made = model(registry, "qwen2.5-vl", checkpoint("qwen2_5_vl"), max_pixels=7056)
    assert made.request().processor == {"max_pixels": 7056}
    with pytest.raises(ValueError, match=r"min_pixels \(9\) exceeds max_pixels"):
        model(registry, "qwen2-vl", checkpoint("qwen2_vl"), min_pixels=9, max_pixels=8)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_older_files_say_the_same(
    family: str, checkpoint: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    """Most checkpoints on the hub were written before all settings went into one file."""
    older = tmp_path / "older"
    shutil.copytree(checkpoint(family), older)
    content = json.loads((older / "processor_config.json").read_text())
    (older / "processor_config.json").unlink()
    images = content.pop("image_processor")
    images["processor_class"] = content["processor_class"]
    images["image_processor_type"] = images["image_processor_type"].removesuffix("Pil")
    (older / "preprocessor_config.json").write_text(json.dumps(images))
    if content.keys() > {"processor_class"}:
        (older / "processor_config.json").write_text(json.dumps(content))
    template = (older / "chat_template.jinja").read_text()
    (older / "chat_template.jinja").unlink()
    (older / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    told = []
    for source in (checkpoint(family), older):
        made = model(registry, "hf-vlm", source)
        with made.open(made.request()) as loaded:
            assert loaded.info.processor == made.describe(made.request()).processor
            told.append([p.token_ids for p in loaded.generate(loaded.encode(RAGGED), OPTIONS)])
    assert told[0] == told[1]


def test_model_in_several_places_answers_as_in_one(
    checkpoint: Callable[[str], Path], registry: Registry
) -> None:
    """Of the decoder only what is in use is in memory: what one device can show of a device map."""
    spread = dict.fromkeys(("model.vision_tower", "model.multi_modal_projector", "lm_head"), "cpu")
    spread["model.language_model"] = "disk"
    method = registry.load(Kind.ACCELERATOR, "fastv")
    fastv = method(method.config_cls(keep_ratio=0.25, layer=2))
    told = []
    for device_map in (None, {"": "cpu"}, spread):
        made = model(registry, "llava", checkpoint("llava"), device_map=device_map)
        with made.open(made.request()) as loaded:
            assert loaded.module is not None
            away = [weight.is_meta for weight in loaded.module.parameters()]
            assert any(away) == (device_map == spread)
            with Patch() as patch:
                fastv.attach(loaded, None, patch)
                answers = loaded.generate(loaded.encode(RAGGED), OPTIONS)
            if any(away):
                with pytest.raises(UnsupportedError, match="on the disk"):
                    chosen_linears(loaded, vision=False, head=False)
        told.append([(p.token_ids, p.logprobs, p.visual_tokens) for p in answers])
    assert told[0] == told[1] == told[2]


def test_another_family_is_refused(checkpoint: Callable[[str], Path], registry: Registry) -> None:
    with pytest.raises(DataError, match="this is a qwen2_vl model, not llava"):
        model(registry, "llava", checkpoint("qwen2_vl")).request()
