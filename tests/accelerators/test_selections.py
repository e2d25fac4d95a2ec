"""Which tokens each method keeps, by hand, and that it does so on the embedded model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reductions import attached, require_most_attended
from stabfw.components import Accelerator, Example, FitData, ModelInfo, Prediction, Prompt
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw.errors import UnsupportedError
from stabfw_accelerators.dart import Dart, DartConfig
from stabfw_accelerators.dart.method import largest, unlike
from stabfw_accelerators.divprune import DivPrune, DivPruneConfig
from stabfw_accelerators.divprune.method import diverse
from stabfw_accelerators.holov import HoloV, HoloVConfig
from stabfw_accelerators.holov.method import highest_of_each, shared_out
from stabfw_accelerators.lofi import LoFi, LoFiConfig
from stabfw_accelerators.lofi.method import leverage
from stabfw_accelerators.pyramiddrop import PyramidDrop, PyramidDropConfig
from stabfw_accelerators.random_drop import RandomDropConfig
from stabfw_accelerators.uniform import Uniform, UniformConfig
from stabfw_accelerators.uniform.method import evenly_spaced
from stabfw_accelerators.vtw import Vtw, VtwConfig

Ask = Callable[..., list[Prediction]]


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        pytest.param(DivPrune(DivPruneConfig(keep_ratio=0.25)), (16,) * 6, id="divprune"),
        pytest.param(Dart(DartConfig(keep_ratio=0.25)), (64, 64, 16, 16, 16, 16), id="dart"),
        pytest.param(HoloV(HoloVConfig(keep_ratio=0.25)), (16,) * 6, id="holov"),
        pytest.param(LoFi(LoFiConfig()), (16,) * 6, id="lofi"),
        pytest.param(
            Uniform(UniformConfig(layer=3, keep_ratio=0.25)), (64,) * 3 + (16,) * 3, id="uniform"
        ),
        pytest.param(Vtw(VtwConfig()), (64, 64, 0, 0, 0, 0), id="vtw"),
        pytest.param(Vtw(VtwConfig(layer=5)), (64, 64, 64, 64, 64, 0), id="vtw-deep"),
        pytest.param(PyramidDrop(PyramidDropConfig()), (64, 32, 32, 16, 8, 8), id="pyramiddrop"),
    ],
)
def test_tokens_are_dropped_where_they_should_and_whatever_the_batch(
    method: Accelerator[Any],
    counts: tuple[int, ...],
    tiny: Any,
    ask: Ask,
    baseline: list[Prediction],
) -> None:
    eight, single = attached(method, tiny, lambda: (ask(tiny, 8), ask(tiny, 1)))
    assert {p.visual_tokens for p in eight} == {counts}
    assert all(a.top != b.top for a, b in zip(eight, baseline, strict=True))
    for a, b in zip(eight, single, strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    report = method.report(tiny)
    assert report["engaged"] is True
    assert (report["visual_tokens_before"], report["visual_tokens_after"]) == (64, counts[-1])
    assert report["layers"] == [n for n in range(6) if counts[n] != (64, *counts)[n]]


def control(method: Accelerator[Any]) -> RandomDropConfig:
    named = method.control()
    assert named is not None
    name, config = named
    assert name == "random-drop"
    return RandomDropConfig(**config)


class TestDivPrune:
    @pytest.mark.parametrize(
        ("count", "kept"), [(1, [2]), (2, [2, 4]), (3, [0, 2, 4]), (4, [0, 1, 2, 4])]
    )
    def test_the_nearest_two_are_far_apart(self, count: int, kept: list[int]) -> None:
        """Points on circles at 0, 20, 90, 200 and 210 degrees.

        90 is the farthest from its nearest (20); 210 is the farthest from 90; 0 is 90 from the
        nearest of the two; then 20 is 20 from its nearest kept one, 200 only 10.
        """
        angles = [math.radians(degrees) for degrees in (0, 20, 90, 200, 210)]
        points = torch.tensor(
            [
                [r * math.cos(a), r * math.sin(a)]
                for r, a in zip((1, 5, 0.1, 3, 2), angles, strict=True)
            ]
        )
        assert diverse(points, count).tolist() == kept

    def test_of_equals_the_first_is_kept(self) -> None:
        points = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.bfloat16)
        assert diverse(points, 2).tolist() == [0, 2]
        assert diverse(points, 3).tolist() == [0, 1, 2]
        assert diverse(points, 4).tolist() == [0, 1, 2, 3]

    def test_control_spends_the_same_budget(self) -> None:
        method = DivPrune(DivPruneConfig(positions="renumber"))
        expected = RandomDropConfig(layer=0, keep_ratio=0.098, positions="renumber")
        assert control(method) == expected

    def test_it_is_the_authors_with_their_positions_on_their_family(self, tiny: Any) -> None:
        kept, renumbered = (
            DivPrune(DivPruneConfig(positions=positions)) for positions in ("keep", "renumber")
        )
        assert renumbered.report(tiny)["fidelity"] == "faithful"
        assert kept.report(tiny)["fidelity"] == "adapted"

    def test_multimodal_positions_are_refused_before_loading(self, tiny: Any) -> None:
        info = ModelInfo("qwen2_vl", 4, has_anatomy=True, multimodal_positions=True)
        renumbered = DivPrune(DivPruneConfig(positions="renumber"))
        assert "cannot be renumbered" in str(renumbered.supports(info, tiny.request))
        assert renumbered.supports(tiny.info, tiny.request) is None
        assert DivPrune(DivPruneConfig()).supports(info, tiny.request) is None


class TestVtw:
    @pytest.mark.parametrize(
        ("layers", "first_without"), [(32, 15), (40, 18), (28, 13), (6, 2), (4, 1), (1, 1)]
    )
    def test_layer_is_the_authors_at_another_depth(self, layers: int, first_without: int) -> None:
        assert Vtw(VtwConfig()).stages(layers) == {first_without: 0}
        assert Vtw(VtwConfig(layer=7)).stages(layers) == {7: 0}

    def test_support(self, tiny: Any) -> None:
        def reason(layer: int | None, info: ModelInfo = tiny.info) -> str:
            return str(Vtw(VtwConfig(layer=layer)).supports(info, tiny.request))

        assert reason(None) == reason(5) == "None"
        assert "no layer 6" in reason(6)
        assert "no layer 1" in reason(None, ModelInfo("llava", 1, has_anatomy=True))
        assert "give `layer`" in reason(None, ModelInfo("llava", has_anatomy=True))
        assert "parts of a paligemma" in reason(None, ModelInfo("paligemma"))
        assert Vtw(VtwConfig()).control() is None

    def test_answers_are_those_of_a_model_that_hides_the_picture(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        encoded = tiny.encode(prompts[:1])
        ids = encoded.inputs["input_ids"]
        length = ids.shape[1]
        seen = torch.ones(length, length).tril().bool() & (ids[0] != tiny.anatomy.image_token_id)
        mask = (seen | torch.eye(length).bool())[None, None]

        def logits() -> torch.Tensor:
            with torch.inference_mode():
                told: torch.Tensor = tiny.module(**encoded.inputs).logits[0, -1]
            return told

        found = attached(Vtw(VtwConfig(layer=2)), tiny, logits)
        tiny.token_depths = ()
        with Patch() as patch:
            for layer in tiny.anatomy.layers[2:]:
                patch.pre_hook(layer, lambda _, a, k: (a, k | {"attention_mask": mask}))
            expected = logits()
        assert torch.allclose(found, expected, atol=1e-4)
        assert not torch.allclose(found, logits(), atol=1e-2)

    def test_search_stops_at_the_first_layer_that_is_close_enough(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        """Against the divergence of the model's own logits, with the picture hidden by a mask."""
        data = FitData(tuple(map(Example, prompts[:6])))
        strict = json.loads(Vtw(VtwConfig(search=True, divergence=1e-9)).fit(tiny, data).data)
        assert strict["layer"] == 5, "none is close enough: the last one"
        assert len(strict["divergences"]) == 5
        second = strict["divergences"][1]
        assert second == pytest.approx(hidden(tiny, prompts[:6], 2), rel=1e-3)
        enough = second * 1.01
        assert strict["divergences"][0] > enough
        method = Vtw(VtwConfig(search=True, divergence=enough))
        artefact = method.fit(tiny, data)
        assert json.loads(artefact.data)["layer"] == 2
        with Patch() as patch:
            method.attach(tiny, artefact, patch)
            assert method.stages(6) == {2: 0}

    def test_layer_that_is_not_searched_is_at_hand(self, tiny: Any) -> None:
        for config, layer in ((VtwConfig(), 2), (VtwConfig(layer=4), 4)):
            artefact = Vtw(config).at_hand(tiny.info)
            assert artefact is not None
            assert json.loads(artefact.data)["layer"] == layer
        assert Vtw(VtwConfig(search=True)).at_hand(tiny.info) is None
        with pytest.raises(ValueError, match="`layer` or `search`, not both"):
            VtwConfig(layer=3, search=True)


class TestPyramidDrop:
    @pytest.mark.parametrize(
        ("layers", "at"), [(32, (8, 16, 24)), (28, (7, 14, 21)), (6, (1, 3, 4)), (4, (1, 2, 3))]
    )
    def test_stages_split_the_model_evenly(self, layers: int, at: tuple[int, ...]) -> None:
        stages = PyramidDrop(PyramidDropConfig()).stages(layers)
        assert stages == dict(zip(at, (0.5, 0.25, 0.125), strict=True))
        placed = PyramidDropConfig(layers=(2, 9), keep_ratios=(0.75, 0.1))
        assert PyramidDrop(placed).stages(layers) == {2: 0.75, 9: 0.1}

    def test_each_stage_keeps_what_its_layer_attends_to_most(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        """The first stage, against the attention that the model itself computes there."""
        select = PyramidDrop(PyramidDropConfig()).select(3, 0.25)
        require_most_attended(tiny, prompts[:4], select, before=3, attending=3)

    def test_keeping_all_is_bit_identical(
        self, tiny: Any, ask: Ask, baseline: list[Prediction]
    ) -> None:
        method = PyramidDrop(PyramidDropConfig(keep_ratios=(1, 1, 1)))
        found = attached(method, tiny, lambda: ask(tiny))
        assert [(p.token_ids, p.top) for p in found] == [(p.token_ids, p.top) for p in baseline]
        assert method.report(tiny)["engaged"] is False

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"keep_ratios": (0.25, 0.5)}, "must not rise"),
            ({"layers": (1, 2)}, "give one for each"),
            ({"layers": (3, 2, 4)}, "layers must rise"),
            ({"keep_ratios": ()}, "at least 1"),
            ({"keep_ratios": (0.5, 0.0)}, "greater than 0"),
        ],
    )
    def test_senseless_stages_are_refused(self, config: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            PyramidDropConfig(**config)

    def test_support(self, tiny: Any) -> None:
        def reason(info: ModelInfo = tiny.info, **config: Any) -> str:
            return str(PyramidDrop(PyramidDropConfig(**config)).supports(info, tiny.request))

        assert reason() == "None"
        assert "no layer 6" in reason(layers=(1, 2, 6))
        assert "3 stages need 4" in reason(ModelInfo("llava", 3, has_anatomy=True))
        assert "give `layers`" in reason(ModelInfo("llava", has_anatomy=True))


class TestDart:
    def test_pivots_have_the_largest_keys(self) -> None:
        keys = torch.tensor([[[1.0, -5], [1, 1]], [[3, 3], [3, 0]], [[0, 0], [0, 0]]])
        assert largest(keys, 1).tolist() == [1]
        assert largest(keys, 2).tolist() == [0, 1]

    def test_each_pivot_takes_what_is_least_like_it(self) -> None:
        """Tokens at 0, 50, 90, 170, 180 and 260 degrees; pivots at 0 and, of the text, at 90."""
        angles = torch.deg2rad(torch.tensor([0.0, 50, 90, 170, 180, 260]))
        states = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor(
            [[1.0], [2], [3], [4], [5], [6]]
        )
        words, pivots = torch.tensor([[0.0, 7]]), torch.tensor([0])
        # 180 is the farthest from 0, then 260 from 90.
        assert unlike(states, pivots, words, 3).tolist() == [0, 4, 5]
        # The odd one goes to the last pivot: 170 and 180 are 80 and 90 from 90, so 180 if left.
        assert unlike(states, pivots, words, 4).tolist() == [0, 3, 4, 5]
        assert unlike(states, pivots, words[:0], 2).tolist() == [0, 4]
        assert unlike(states, pivots, words, 1).tolist() == [0]
        assert unlike(states, pivots, words, 6).tolist() == list(range(6))

    def test_question_and_keys_are_those_of_the_model(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        found: list[torch.Tensor] = []
        select = Dart(DartConfig()).select(2, 0.25)

        def spy(context: Context) -> Reduction:
            found.append(select(context).keep)
            return Reduction(found[-1])

        inputs = tiny.encode(prompts[:3]).inputs
        with torch.inference_mode():
            whole = tiny.module(**inputs, use_cache=True, output_hidden_states=True)
            with Patch() as patch:
                reduce_visual_tokens(tiny, {2: spy}, patch)
                tiny.module(**inputs)
        tiny.token_depths = ()
        for row, keep in enumerate(found):
            visual = (inputs["input_ids"][row] == tiny.anatomy.image_token_id).nonzero()[:, 0]
            begin = int(visual[-1]) + 1
            norms = whole.past_key_values.layers[1].keys[row].abs().sum((0, 2))
            states = whole.hidden_states[2][row]
            pivots = norms[visual].topk(4).indices.sort().values
            words = norms[begin:].topk(4).indices.sort().values
            expected = unlike(states[visual], pivots, states[begin:][words], 16)
            assert keep.tolist() == expected.tolist()

    def test_control_spends_the_same_budget(self) -> None:
        method = Dart(DartConfig(layer=1, keep_ratio=0.3))
        assert control(method) == RandomDropConfig(layer=1, keep_ratio=0.3)


class TestHoloV:
    @pytest.mark.parametrize(
        ("worth", "sizes", "count", "quotas"),
        [
            # 5 in proportion 6 : 3 : 1 is 3, 1.5 and 0.5; the best gets what is left.
            ([6, 3, 1], [9, 9, 9], 5, [4, 1, 0]),
            # 8 would be 4.8, 2.4 and 0.8: the first has room for 4, the others get one more.
            ([6, 3, 1], [4, 9, 9], 8, [4, 3, 1]),
            # More than one round.
            ([6, 3, 1], [1, 2, 9], 8, [1, 2, 5]),
            ([0, 0, 0], [2, 2, 2], 4, [2, 1, 1]),
        ],
    )
    def test_budget_is_spent(
        self, worth: list[float], sizes: list[int], count: int, quotas: list[int]
    ) -> None:
        assert shared_out(worth, sizes, count) == quotas

    def test_each_crop_keeps_what_is_attended_to(self) -> None:
        scores = torch.tensor([4.0, 5, 6, 1, 3, 2, 2])
        # Crops of 3, 2 and 2 tokens are worth 5, 2 and 2: of three tokens 1.7, 0.7 and 0.7.
        assert highest_of_each(scores, 3, 3).tolist() == [1, 2, 4]
        assert highest_of_each(scores, 7, 16).tolist() == list(range(7))


class TestLoFi:
    #: Two along the first axis, one along the second, one along the third.
    FEATURES = torch.tensor([[2.0, 0, 0], [4, 0, 0], [0, 3, 0], [0, 0, 1]])

    def test_leverage_is_that_of_the_singular_vectors(self) -> None:
        assert leverage(self.FEATURES, 1).tolist() == pytest.approx([0.2, 0.8, 0, 0])
        assert leverage(self.FEATURES, 2).tolist() == pytest.approx([0.2, 0.8, 1, 0])
        points = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        vectors = torch.linalg.svd(points).U
        for rank in (1, 3, 5):
            expected = vectors[:, :rank].square().sum(1)
            assert torch.allclose(leverage(points, rank).float(), expected, atol=1e-5)
        # There are no more than five directions.
        assert torch.equal(leverage(points, 8), leverage(points, 5))

    def test_a_rank_that_tells_nothing_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="below 4"):
            leverage(self.FEATURES, 4)

    def test_it_is_unverified(self, tiny: Any) -> None:
        assert LoFi(LoFiConfig()).report(tiny)["fidelity"] == "unverified"


class TestUniform:
    @pytest.mark.parametrize(
        ("share", "kept"), [(1, [0, 1, 2, 3, 4, 5]), (0.5, [0, 2, 4]), (0.7, [0, 1, 3, 4])]
    )
    def test_tokens_are_evenly_spaced(self, share: float, kept: list[int]) -> None:
        class Six(Context):
            def __init__(self) -> None:
                self.visual_tokens = 6

        assert evenly_spaced(share)(Six()).keep.tolist() == kept

    def test_control_spends_the_same_budget(self) -> None:
        method = Uniform(UniformConfig(layer=3, keep_ratio=0.25))
        assert control(method) == RandomDropConfig(layer=3, keep_ratio=0.25)


def hidden(tiny: Any, asked: tuple[Prompt, ...], layer: int) -> float:
    """Mean divergence of a model from itself with the picture hidden from a layer on."""
    found = []
    for prompt in asked:
        encoded = tiny.encode([prompt])
        ids = encoded.inputs["input_ids"]
        length = ids.shape[1]
        seen = torch.ones(length, length).tril().bool() & (ids[0] != tiny.anatomy.image_token_id)
        mask = (seen | torch.eye(length).bool())[None, None]
        with torch.inference_mode():
            whole = tiny.module(**encoded.inputs).logits[0, -1].log_softmax(-1)
            with Patch() as patch:
                for block in tiny.anatomy.layers[layer:]:
                    patch.pre_hook(block, lambda _, a, k, m=mask: (a, k | {"attention_mask": m}))
                other = tiny.module(**encoded.inputs).logits[0, -1].log_softmax(-1)
        found.append(float((whole.exp() * (whole - other)).sum()))
    return sum(found) / len(found)
