"""Methods that merge tokens: by hand, from the formulas, and on the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reductions import attached
from stabfw.components import Accelerator, ModelInfo, Prediction, Prompt
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw_accelerators.pool import Pool, PoolConfig
from stabfw_accelerators.pool.method import pooled
from stabfw_accelerators.prumerge import PruMerge, PruMergeConfig
from stabfw_accelerators.prumerge.method import highest, merge, outliers, spread
from stabfw_accelerators.random_drop import RandomDropConfig
from stabfw_accelerators.sparsevlm import SparseVlm, SparseVlmConfig
from stabfw_accelerators.sparsevlm.method import density_peaks, raters, recycled
from stabfw_accelerators.tome import ToMe, ToMeConfig
from stabfw_accelerators.tome.method import matched
from stabfw_accelerators.visionzip import VisionZip, VisionZipConfig
from stabfw_accelerators.visionzip.method import zipped

Ask = Callable[..., list[Prediction]]


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        pytest.param(VisionZip(VisionZipConfig(keep_ratio=0.25)), (16,) * 6, id="visionzip"),
        pytest.param(PruMerge(PruMergeConfig(keep_ratio=0.25)), (16,) * 6, id="prumerge"),
        pytest.param(
            PruMerge(PruMergeConfig(keep_ratio=0.25, plus=True)), (16,) * 6, id="prumerge+"
        ),
        pytest.param(Pool(PoolConfig()), (16,) * 6, id="pool"),
        pytest.param(Pool(PoolConfig(size=3)), (9,) * 6, id="pool-3"),
        pytest.param(ToMe(ToMeConfig(keep_ratio=0.75)), (48,) * 6, id="tome"),
        # 33 of 64 and one cluster of 10; 22 and one of 4; 12 and one of 4.
        pytest.param(SparseVlm(SparseVlmConfig()), (64, 35, 23, 13, 13, 13), id="sparsevlm"),
        pytest.param(
            SparseVlm(SparseVlmConfig(recycle=False, layers=(2, 3, 5))),
            (64, 64, 33, 22, 22, 12),
            id="sparsevlm-no-recycling",
        ),
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


@pytest.mark.parametrize(
    "method",
    [PruMerge(PruMergeConfig()), VisionZip(VisionZipConfig()), Pool(PoolConfig())],
    ids=["prumerge", "visionzip", "pool"],
)
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


class TestSparseVlm:
    @pytest.mark.parametrize(
        ("layers", "at"), [(32, (3, 7, 16)), (28, (2, 6, 14)), (6, (1, 2, 3)), (4, (1, 2, 3))]
    )
    def test_stages_are_the_authors_at_another_depth(
        self, layers: int, at: tuple[int, ...]
    ) -> None:
        stages = SparseVlm(SparseVlmConfig()).stages(layers)
        assert stages == dict(zip(at, (300 / 576, 200 / 576, 110 / 576), strict=True))

    def test_support(self, tiny: Any) -> None:
        def reason(info: ModelInfo = tiny.info, **config: Any) -> str:
            return str(SparseVlm(SparseVlmConfig(**config)).supports(info, tiny.request))

        assert reason() == "None"
        assert "no layer comes before" in reason(layers=(0, 1, 2))
        assert "no layer 6" in reason(layers=(1, 2, 6))
        assert "3 stages need 4" in reason(ModelInfo("llava", 3, has_anatomy=True))
        assert "give `layers`" in reason(ModelInfo("llava", has_anatomy=True))

    def test_words_rate_that_visual_tokens_are_close_to(self) -> None:
        """By softmax, the first visual token is 1/2 : 1/4 : 1/4 and the second 1/7 : 4/7 : 2/7."""
        visual = torch.tensor([[1.0, 0], [0, 1]])
        words = torch.tensor([[2.0, 1], [1, 4], [1, 2]]).log()
        # Means 9/28, 23/56 and 15/56 around 1/3.
        assert raters(visual, words).tolist() == [1]
        assert raters(visual, torch.ones(2, 2)).tolist() == [0, 1]

    def test_centres_are_dense_and_far_from_denser_points(self) -> None:
        points = torch.tensor([[0.0], [10.0], [1.0], [11.5], [2.0], [10.5]])
        centres, means = density_peaks(points, 2)
        # By the distance to the nearest, 10 and 10.5 are the densest; 10 comes first. Of 0, 1 and
        # 2, which are equally dense, 0 comes first, so only that one is far from a denser point.
        assert centres.tolist() == [1, 0]
        assert means[:, 0].tolist() == pytest.approx([32 / 3, 1])

    def test_equal_points_are_one_after_the_other(self) -> None:
        centres, means = density_peaks(torch.ones(4, 3), 2)
        assert centres.tolist() == [0, 1]
        assert torch.equal(means, torch.ones(2, 3))

    def test_the_better_ones_are_merged_where_their_centre_stood(self) -> None:
        states = torch.arange(8.0)[:, None].repeat(1, 2)
        scores = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8, 0.3, 0.4, 0.0])
        keep, merged = recycled(states, scores, torch.tensor([0, 4]))
        # Of the other six, int(1.8) + 1 = 2 are better: 2 and 6; the earlier one is the centre.
        assert keep.tolist() == [0, 2, 4]
        assert merged[:, 0].tolist() == [0, 4, 4]

    def test_scores_are_the_attention_of_the_raters(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        """Against the attention that the model itself computes in the layer before."""
        found: list[torch.Tensor] = []
        select = SparseVlm(SparseVlmConfig(recycle=False)).select(3, 0.25)

        def spy(context: Context) -> Reduction:
            found.append(select(context).keep)
            return Reduction(found[-1])

        inputs = tiny.encode(prompts[:3]).inputs
        with Patch() as patch, torch.inference_mode():
            reduce_visual_tokens(tiny, {3: spy}, patch)
            tiny.module(**inputs)
        tiny.token_depths = ()
        tiny.module.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                output = tiny.module(**inputs, output_attentions=True, output_hidden_states=True)
        finally:
            tiny.module.set_attn_implementation("sdpa")
        for row, keep in enumerate(found):
            visual = (inputs["input_ids"][row] == tiny.anatomy.image_token_id).nonzero()[:, 0]
            embedded = output.hidden_states[0][row]
            begin = int(visual[-1]) + 1
            rows = begin + raters(embedded[visual], embedded[begin:])
            assert 0 < len(rows) < len(embedded) - begin
            scores = output.attentions[2][row][:, rows][:, :, visual].mean((0, 1))
            assert keep.tolist() == sorted(scores.topk(16).indices.tolist())


class TestPruMerge:
    #: Both quartiles are 2, so outliers are above 2: tokens 1 and 6.
    SCORES = torch.tensor([2.0, 9, 2, 1, 2, 1, 8, 2, 2])

    def test_outliers_are_far_above_the_quartiles(self) -> None:
        assert outliers(self.SCORES) == 2
        assert highest(self.SCORES, None).tolist() == [1, 6]
        assert highest(self.SCORES, 3).tolist() == [0, 1, 6]
        # Quartiles 1.75 and 3.75: above 6.75.
        assert outliers(torch.tensor([2.0, 9, 2, 1, 2, 1, 6, 3])) == 1
        assert outliers(torch.ones(5)) == 1

    def test_plus_adds_evenly_spaced_tokens(self) -> None:
        scores = torch.ones(24)
        scores[[1, 6]] = 2
        # Two of 24 are outliers: one in 12, so a stride of 4.
        assert spread(scores, None).tolist() == [0, 1, 4, 6, 8, 12, 16, 20]
        scores[:] = torch.arange(24)
        assert spread(scores, None).tolist() == [0, 8, 16, 23]
        # Where more than one in six is an outlier, all are kept but the last.
        assert spread(self.SCORES, None).tolist() == list(range(8))

    @pytest.mark.parametrize(
        ("count", "kept"), [(1, [1]), (2, [1, 6]), (5, [0, 1, 3, 5, 6]), (9, list(range(9)))]
    )
    def test_plus_fills_a_budget_evenly(self, count: int, kept: list[int]) -> None:
        assert spread(self.SCORES, count).tolist() == kept

    def test_what_is_like_a_token_is_added_to_it(self) -> None:
        states = torch.tensor([[1.0, 0], [2, 2], [4, 0], [0, 1]])
        scores = torch.tensor([0.5, 1, 0.25, 0.5])
        keys = torch.tensor([[1.0, 0], [5, 1], [1, 5], [0, 1]])
        chosen = torch.tensor([0, 3])
        keep, merged = merge(states, scores, keys, chosen, extra=True, neighbours=1)
        # 0 and 1 times 1; 1 times 1 plus 2 times 1/4; 3 and 2 times 1/4.
        assert keep.tolist() == [0, 2, 3]
        assert merged.tolist() == [[3, 2], [3, 2], [1, 1]]
        keep, merged = merge(states, scores, keys, chosen, extra=False, neighbours=3)
        assert keep.tolist() == [0, 3]
        # All others, kept or not.
        assert merged.tolist() == [[1 + 2 + 1, 2 + 0.5], [0.5 + 2 + 1, 1 + 2]]

    def test_the_picture_decides_how_many_are_left(self, tiny: Any, ask: Ask) -> None:
        adaptive, plus = PruMerge(PruMergeConfig()), PruMerge(PruMergeConfig(plus=True))
        for method in (adaptive, plus):
            named = method.control()
            assert named is not None
            assert PruMergeConfig(**named[1]) == method.config.model_copy(update={"blind": True})
        few, more = (attached(m, tiny, lambda: ask(tiny)) for m in (adaptive, plus))
        counts = [p.visual_tokens[-1] for p in few]
        assert len(set(counts)) > 1
        assert all(1 < a < p.visual_tokens[-1] <= 64 for a, p in zip(counts, more, strict=True))

    def test_control_spends_the_same_budget(self) -> None:
        method = PruMerge(PruMergeConfig(keep_ratio=0.2))
        assert control(method) == RandomDropConfig(layer=0, keep_ratio=0.2)


class TestToMe:
    #: Even tokens at 0, 20, 95 and 200 degrees; odd ones at 90, 10 and 190.
    ANGLES = (0, 90, 20, 10, 95, 190, 200)

    def features(self) -> torch.Tensor:
        angles = torch.deg2rad(torch.tensor(self.ANGLES, dtype=torch.float32))
        lengths = torch.arange(1.0, 8)[:, None]
        return torch.stack([angles.cos(), angles.sin()], 1) * lengths

    @pytest.mark.parametrize(
        ("pairs", "left"),
        [
            (0, {0: [0], 1: [1], 2: [2], 3: [3], 4: [4], 5: [5], 6: [6]}),
            # 95 is 5 degrees from 90; 0, 20 and 200 are 10 from theirs.
            (1, {0: [0], 1: [1, 4], 2: [2], 3: [3], 5: [5], 6: [6]}),
            (4, {1: [1, 4], 3: [3, 0, 2], 5: [5, 6]}),
        ],
    )
    def test_pairs_that_are_most_alike_are_averaged(
        self, pairs: int, left: dict[int, list[int]]
    ) -> None:
        features = self.features()
        keep, merged = matched(features, pairs)
        assert keep.tolist() == list(left)
        for state, tokens in zip(merged, left.values(), strict=True):
            assert torch.allclose(state, features[tokens].mean(0), atol=1e-6)

    def test_one_merge_cannot_go_below_half(self) -> None:
        with pytest.raises(ValueError, match=r"0\.5"):
            ToMeConfig(keep_ratio=0.4)


class TestPool:
    def test_blocks_are_averaged(self) -> None:
        """Rows of 3 and columns of 2, with marks behind the rows; a whole picture before it."""
        grid = [[0, 1, row, column] for row in range(3) for column in (0, 1, -1)]
        places = torch.tensor([[0, 0, 0, 0], *grid])
        places[places[:, 3] < 0, 1:] = -1
        features = torch.arange(10.0)[:, None].repeat(1, 2)
        # 0 | 1 2 (3) 4 5 (6) 7 8 (9): blocks of 1, 2, 4 and 5, and of 7 and 8.
        keep, states = pooled(features, places, 2)
        assert keep.tolist() == [0, 1, 3, 7, 9]
        assert states[:, 0].tolist() == [0, 3, 3, 7.5, 9]
        assert torch.equal(states[:, 0], states[:, 1])

    def test_blocks_do_not_cross_pictures_and_start_at_their_first_token(self) -> None:
        """Two pictures; of the first, only the last column and row of a tile are there."""
        places = torch.tensor([[0, 0, 3, 3], [0, 1, 3, 0], [1, 0, 0, 0], [1, 0, 0, 1]])
        keep, states = pooled(torch.tensor([[1.0], [2], [4], [8]]), places, 2)
        assert keep.tolist() == [0, 1, 2]
        assert states[:, 0].tolist() == [1, 2, 6]

    def test_it_is_pooling_of_the_projected_picture(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        """What enters the decoder, against torch's own pooling of the projector's output."""
        entered: list[torch.Tensor] = []
        inputs = tiny.encode(prompts[:2]).inputs
        method = Pool(PoolConfig())
        with torch.inference_mode():
            features = tiny.module.model.get_image_features(inputs["pixel_values"]).pooler_output
            with Patch() as patch:
                method.attach(tiny, None, patch)
                patch.pre_hook(tiny.anatomy.layers[0], lambda _, a, k: entered.append(a[0]))
                tiny.module(**inputs)
        tiny.token_depths = ()
        grid = torch.stack(list(features)).view(2, 8, 8, -1).permute(0, 3, 1, 2)
        expected = torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        visual = inputs["input_ids"] == tiny.anatomy.image_token_id
        for row in range(2):
            # Text behind the picture is left as it was, so counting from the end finds it.
            behind = visual.shape[1] - 1 - int(visual[row].nonzero()[-1])
            found = entered[0][row][: len(entered[0][row]) - behind][-16:]
            assert torch.allclose(found, expected[row], atol=1e-5)
