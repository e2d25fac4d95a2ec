"""The embedded weights are the recorded ones, answer clear questions, and need the picture."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from stabfw.components import Accelerator, Encoded, GenerationOptions, Image, Prediction, Prompt
from stabfw.components.patch import Patch
from stabfw.testing.bench import bits
from stabfw_accelerators.dart import Dart, DartConfig
from stabfw_accelerators.divprune import DivPrune, DivPruneConfig
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.holov import HoloV, HoloVConfig
from stabfw_accelerators.lofi import LoFi, LoFiConfig
from stabfw_accelerators.pool import Pool, PoolConfig
from stabfw_accelerators.prumerge import PruMerge, PruMergeConfig
from stabfw_accelerators.pyramiddrop import PyramidDrop, PyramidDropConfig
from stabfw_accelerators.random_drop import RandomDrop, RandomDropConfig
from stabfw_accelerators.sparsevlm import SparseVlm, SparseVlmConfig
from stabfw_accelerators.tome import ToMe, ToMeConfig
from stabfw_accelerators.uniform import Uniform, UniformConfig
from stabfw_accelerators.visionzip import VisionZip, VisionZipConfig
from stabfw_accelerators.vtw import Vtw, VtwConfig
from stabfw_benchmarks.shapes import ShapesConfig, scenes
from stabfw_models.tiny import WEIGHTS
from stabfw_models.tiny.training import data, evaluate
from stabfw_models.tiny.training.architectures import (
    ARCHITECTURES,
    HASH_FILE,
    WEIGHTS_FILE,
    Architecture,
)
from stabfw_models.tiny.training.train import answer_loss


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def architecture(name: str) -> Architecture:
    return ARCHITECTURES[name]


@pytest.fixture(scope="module")
def answerer(name: str) -> evaluate.Answerer:
    return evaluate.Answerer(WEIGHTS / name)


@pytest.fixture(scope="module")
def loaded(name: str, answerer: evaluate.Answerer) -> Any:
    return answerer.model


def scene_prompts(architecture: Architecture, images: int = 8) -> list[Prompt]:
    """Two questions on each of some scenes, in all sizes that the architecture takes."""
    found = []
    for index in range(images):
        size = architecture.sizes[index % len(architecture.sizes)]
        scene = scenes.generate("validation", index, size=size)
        for number, question in enumerate(scenes.questions(scene, 2)):
            text = data.scene_turn(question, suffix=False).prompt
            found.append(Prompt(f"{index}-{number}", (Image.from_pixels(scene.pixels),), text))
    return found


def ask(loaded: Any, prompts: list[Prompt], batch: int, **extra: Any) -> list[Prediction]:
    options = GenerationOptions(max_new_tokens=6, extra=extra)
    return [
        prediction
        for start in range(0, len(prompts), batch)
        for prediction in loaded.generate(loaded.encode(prompts[start : start + batch]), options)
    ]


def test_weights_match_their_recorded_hash(name: str) -> None:
    recorded, file = (WEIGHTS / name / HASH_FILE).read_text().split()
    assert file == WEIGHTS_FILE
    assert hashlib.sha256((WEIGHTS / name / WEIGHTS_FILE).read_bytes()).hexdigest() == recorded


def test_weights_are_small_enough_to_embed(name: str) -> None:
    assert sum(path.stat().st_size for path in (WEIGHTS / name).iterdir()) < 5_000_000


def test_clear_questions_are_answered_by_looking(answerer: evaluate.Answerer) -> None:
    instances = evaluate.scene_instances(
        "validation", 10, evaluate.EASY_RANGE, kinds=ShapesConfig().kinds
    )
    seen = evaluate.tally(instances, answerer.answer(instances))["all"]
    blind = evaluate.without_image(instances)
    guessed = evaluate.tally(blind, answerer.answer(blind))["all"]
    assert seen.total >= 55
    assert seen.percent > 90
    assert guessed.percent < 60


def test_answers_do_not_depend_on_the_batch(architecture: Architecture, loaded: Any) -> None:
    asked = scene_prompts(architecture)
    eight, one = ask(loaded, asked, 8), ask(loaded, asked, 1)
    assert [p.token_ids for p in eight] == [p.token_ids for p in one]
    assert (len({p.visual_tokens for p in one}) > 1) == (len(set(architecture.sizes)) > 1)


def test_answers_do_not_depend_on_the_cache(architecture: Architecture, loaded: Any) -> None:
    asked = scene_prompts(architecture)
    cached, anew = ask(loaded, asked, 8), ask(loaded, asked, 8, use_cache=False)
    assert [p.token_ids for p in cached] == [p.token_ids for p in anew]


@pytest.mark.parametrize(
    "accelerator",
    [FastV(FastVConfig(keep_ratio=1)), RandomDrop(RandomDropConfig(keep_ratio=1))],
    ids=["fastv", "random-drop"],
)
def test_keeping_all_tokens_is_bit_identical(
    accelerator: Accelerator[Any], architecture: Architecture, loaded: Any
) -> None:
    asked = scene_prompts(architecture)
    with Patch() as patch:
        accelerator.attach(loaded, None, patch)
        kept = ask(loaded, asked, 8)
    assert list(map(bits, kept)) == list(map(bits, ask(loaded, asked, 8)))


@pytest.mark.parametrize(
    "accelerator",
    [
        pytest.param(DivPrune(DivPruneConfig(keep_ratio=0.25)), id="divprune"),
        pytest.param(PyramidDrop(PyramidDropConfig()), id="pyramiddrop"),
        pytest.param(Vtw(VtwConfig()), id="vtw"),
        *(
            pytest.param(method, id=name, marks=pytest.mark.slow)
            for name, method in {
                "dart": Dart(DartConfig(keep_ratio=0.25)),
                "fastv": FastV(FastVConfig(keep_ratio=0.25)),
                "holov": HoloV(HoloVConfig(keep_ratio=0.25)),
                "lofi": LoFi(LoFiConfig()),
                "pool": Pool(PoolConfig()),
                "prumerge": PruMerge(PruMergeConfig()),
                "prumerge+": PruMerge(PruMergeConfig(plus=True, keep_ratio=0.25)),
                "random-drop": RandomDrop(RandomDropConfig(keep_ratio=0.25)),
                "sparsevlm": SparseVlm(SparseVlmConfig()),
                "tome": ToMe(ToMeConfig()),
                "uniform": Uniform(UniformConfig(keep_ratio=0.25)),
                "visionzip": VisionZip(VisionZipConfig(keep_ratio=0.25)),
            }.items()
        ),
    ],
)
def test_fewer_tokens_change_answers_whatever_the_batch(
    accelerator: Accelerator[Any], architecture: Architecture, loaded: Any
) -> None:
    asked = scene_prompts(architecture)
    assert accelerator.supports(loaded.info, loaded.request) is None
    with Patch() as patch:
        accelerator.attach(loaded, None, patch)
        eight, one = ask(loaded, asked, 8), ask(loaded, asked, 1)
    assert accelerator.report(loaded)["engaged"] is True
    assert [p.token_ids for p in eight] == [p.token_ids for p in one]
    assert [p.visual_tokens for p in eight] == [p.visual_tokens for p in one]
    whole = ask(loaded, asked, 8)
    assert all(a.top != b.top for a, b in zip(eight, whole, strict=True))


def test_training_reads_what_the_processor_gives(architecture: Architecture, loaded: Any) -> None:
    """The same tokens, positions and pictures: the packed loss is that of the model's own pass."""
    packer = data.Packer(architecture, loaded.processor.tokenizer)

    def packed(scene: scenes.Scene, turns: Sequence[data.Turn]) -> float:
        rows = [data.Row(scene.pixels, tuple(turns))]
        return float(answer_loss(loaded.module, packer, rows))

    for index, size in enumerate(architecture.sizes):
        scene = scenes.generate("validation", index, size=size)
        turns = [data.scene_turn(q, suffix=False) for q in scenes.questions(scene, 3)]
        with torch.inference_mode():
            alone = [_loss(loaded, packer, scene, turn) for turn in turns]
            assert [packed(scene, [turn]) for turn in turns] == pytest.approx(alone, abs=1e-4)
            weights = [sum(_weights(packer, turn)) for turn in turns]
            mean = sum(map(operator.mul, alone, weights)) / sum(weights)
            assert packed(scene, turns) == pytest.approx(mean, abs=1e-4)


def _loss(loaded: Any, packer: data.Packer, scene: scenes.Scene, turn: data.Turn) -> float:
    """Weighted loss of an answer, by the model's own forward pass on the processor's inputs."""
    prompt = Prompt("0", (Image.from_pixels(scene.pixels),), turn.prompt)
    encoded: Encoded = loaded.encode([prompt])
    answer = torch.tensor([packer.answer_ids(turn)])
    inputs = dict(encoded.inputs)
    asked = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[:, :-1]], 1)
    for name in ("attention_mask", "mm_token_type_ids"):
        if name in inputs:
            more = torch.full_like(answer[:, :-1], int(name == "attention_mask"))
            inputs[name] = torch.cat([inputs[name], more], 1)
    logits = loaded.module(**inputs, use_cache=False).logits[0, asked - 1 :]
    losses = torch.nn.functional.cross_entropy(logits, answer[0], reduction="none")
    weights = torch.tensor(_weights(packer, turn))
    return float((losses * weights).sum() / weights.sum())


def _weights(packer: data.Packer, turn: data.Turn) -> list[float]:
    return data.token_weights(turn.kind, len(packer.answer_ids(turn)))
