"""Methods that merge tokens: by hand, from the formulas, and on the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stabfw.components import Accelerator, ModelInfo, Prediction
from stabfw.components.patch import Patch
from stabfw_accelerators.random_drop import RandomDropConfig
from stabfw_accelerators.visionzip import VisionZip, VisionZipConfig
from stabfw_accelerators.visionzip.method import zipped

Ask = Callable[..., list[Prediction]]


def attached(accelerator: Accelerator[Any], model: Any, run: Callable[[], Any]) -> Any:
    with Patch() as patch:
        accelerator.attach(model, None, patch)
        return run()


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        pytest.param(VisionZip(VisionZipConfig(keep_ratio=0.25)), (16,) * 6, id="visionzip"),
    ],
)
def test_as_many_tokens_are_left_as_the_budget_says(
    method: Accelerator[Any],
    counts: tuple[int, ...],
    tiny: Any,
    ask: Ask,
    baseline: list[Prediction],
) -> None:
    found = attached(method, tiny, lambda: ask(tiny))
    assert {p.visual_tokens for p in found} == {counts}
    assert all(a.top != b.top for a, b in zip(found, baseline, strict=True))
    report = method.report(tiny)
    assert (report["visual_tokens_before"], report["visual_tokens_after"]) == (64, counts[-1])


@pytest.mark.parametrize("method", [VisionZip(VisionZipConfig())], ids=["visionzip"])
def test_models_that_tell_nothing_of_their_tower_are_refused_before_loading(
    method: Accelerator[Any], tiny: Any
) -> None:
    assert method.supports(tiny.info, tiny.request) is None
    assert "vision tower" in str(
        method.supports(ModelInfo("idefics3", 4, has_anatomy=True), tiny.request)
    )


def control(method: Accelerator[Any]) -> RandomDropConfig:
    named = method.control()
    assert named is not None
    assert named[0] == "random-drop"
    return RandomDropConfig(**named[1])


class TestVisionZip:
    #: Tokens 1 and 4 are dominant. Of 0, 2, 3, 5 and 6, every second is a target: 0 and 3. By
    #: their keys, 2 and 6 are like 0, and 5 is like 3.
    STATES = torch.tensor([[1.0, 0], [9, 9], [2, 4], [0, 1], [7, 7], [5, 3], [4, 0]])
    SCORES = torch.tensor([0.1, 0.9, 0.2, 0.1, 0.8, 0.2, 0.0])
    KEYS = torch.tensor([[1.0, 0], [0, 1], [3, 1], [0, 2], [0, 1], [-1, 1], [9, 0]])

    def test_others_join_the_target_that_is_like_them(self) -> None:
        keep, states = zipped(self.STATES, self.SCORES, self.KEYS, dominant=2, count=4)
        assert keep.tolist() == [0, 1, 3, 4]
        # 0 plus the mean of 2 and 6; 3 plus 5.
        assert states.tolist() == [[1 + 3, 0 + 2], [9, 9], [0 + 5, 1 + 3], [7, 7]]

    def test_without_contextual_tokens_the_rest_is_dropped(self) -> None:
        keep, states = zipped(self.STATES, self.SCORES, self.KEYS, dominant=2, count=2)
        assert keep.tolist() == [1, 4]
        assert states.tolist() == [[9, 9], [7, 7]]

    def test_a_target_that_nothing_joins_stays_as_it_is(self) -> None:
        keep, states = zipped(self.STATES, self.SCORES, self.KEYS, dominant=2, count=7)
        assert keep.tolist() == list(range(7))
        assert torch.equal(states, self.STATES)

    def test_control_spends_the_same_budget(self) -> None:
        method = VisionZip(VisionZipConfig(keep_ratio=0.2, positions="renumber"))
        assert control(method) == RandomDropConfig(layer=0, keep_ratio=0.2, positions="renumber")

    def test_it_is_an_adaptation(self, tiny: Any) -> None:
        assert VisionZip(VisionZipConfig()).report(tiny)["fidelity"] == "adapted"
