"""The embedded weights are the recorded ones, load offline and answer clear questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import stabfw_models
import torch
from stabfw_models.tiny_llava.training import data, evaluate
from stabfw_models.tiny_llava.training.model import HASH_FILE, WEIGHTS_FILE
from transformers import AutoProcessor

WEIGHTS = Path(stabfw_models.__file__).parent / "tiny_llava" / "weights"


@pytest.fixture(autouse=True)
def one_offline_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def answerer() -> evaluate.Answerer:
    return evaluate.Answerer(WEIGHTS)


def test_weights_match_their_recorded_hash() -> None:
    recorded, name = (WEIGHTS / HASH_FILE).read_text().split()
    assert name == WEIGHTS_FILE
    assert hashlib.sha256((WEIGHTS / WEIGHTS_FILE).read_bytes()).hexdigest() == recorded


def test_weights_are_small_enough_to_embed() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 5_000_000


def test_clear_questions_are_answered_far_above_chance(answerer: evaluate.Answerer) -> None:
    instances = evaluate.scene_instances("validation", images=10, difficulty=(0.0, 0.2))
    counts = evaluate.tally(instances, answerer.answer(instances))
    assert counts["all"].total >= 55
    assert counts["all"].percent > 80


def test_answers_come_from_the_image(answerer: evaluate.Answerer) -> None:
    instances = evaluate.scene_instances("validation", images=10, difficulty=(0.0, 0.2))
    blind = evaluate.without_image(instances)
    counts = evaluate.tally(blind, answerer.answer(blind))
    assert counts["all"].percent < 60


def test_answers_do_not_depend_on_the_batch(answerer: evaluate.Answerer) -> None:
    instances = evaluate.scene_instances("validation", images=3, difficulty=(0.0, 0.2))
    together = answerer.answer(instances)
    assert together == [answerer.answer([instance])[0] for instance in instances]


def test_training_saw_the_tokens_that_the_processor_gives() -> None:
    processor = AutoProcessor.from_pretrained(WEIGHTS, local_files_only=True)
    packer = data.Packer(processor.tokenizer)
    for instance in evaluate.scene_instances("validation", images=5, difficulty=(0.0, 1.0)):
        inputs = processor(
            images=[instance.pixels],
            text=f"USER: <image>\n{instance.prompt} ASSISTANT:",
            return_tensors="pt",
        )
        turn = data.Turn(instance.kind, instance.prompt, instance.answer)
        assert inputs["input_ids"][0].tolist() == packer.prefix + packer.question_ids(turn)
        expected = data.to_pixel_values([instance.pixels])
        assert torch.allclose(inputs["pixel_values"], expected, atol=1e-5)
