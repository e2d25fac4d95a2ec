"""Spectra are those of numpy, padding never enters them, and a run tells how they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from stabfw.components import GenerationOptions, Image, Kind, LoadedModel, Prompt
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw.metrics import Outcomes, Pairs, pair
from stabfw.plan import Role, make_plan
from stabfw.registry import Registry
from stabfw.report.serialise import load_results
from stabfw.spec import parse_spec
from stabfw.store import Store
from stabfw_accelerators.token_reduction import TokenReduction
from stabfw_metrics.representation import KEPT, SITES, Representation, RepresentationConfig
from stabfw_metrics.representation.comparison import distance
from stabfw_metrics.representation.method import record_spectra, singular_values, summary
from stabfw_models.tiny import TinyConfig, TinyLlava, TinyLlavaNext, TinyQwen2Vl, TinyQwen25Vl

METRIC = Representation(RepresentationConfig())
FAMILIES = (TinyLlava, TinyLlavaNext, TinyQwen2Vl, TinyQwen25Vl)
OPTIONS = GenerationOptions(max_new_tokens=2)
floats = st.floats(-10, 10, allow_nan=False)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def told(features: np.ndarray[Any, Any], kept: int = KEPT) -> dict[str, np.ndarray[Any, Any]]:
    return summary(singular_values(torch.from_numpy(features)), kept)


class TestSpectrum:
    def test_of_a_matrix_made_by_hand(self) -> None:
        # Its columns are orthogonal, of squared lengths 9, 4 and 3.
        features = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1], [0, 0, -1], [0, 0, 1]])
        found = told(features, kept=2)
        assert found["energy"] == pytest.approx(16)
        assert found["spectrum"].tolist() == pytest.approx([9 / 16, 4 / 16])
        assert found["ipr"] == pytest.approx((81 + 16 + 9) / 256)
        shares = np.array([3, 2, 3**0.5]) / (5 + 3**0.5)
        assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))

    @given(arrays(np.float32, shapes, elements=st.floats(-10, 10, width=32)))
    def test_is_that_of_numpy(self, features: np.ndarray[Any, Any]) -> None:
        expected = np.linalg.svd(features.astype(np.float64), compute_uv=False)
        found = singular_values(torch.from_numpy(features))
        assert found == pytest.approx(expected, abs=1e-6 * max(1, expected[0]))
        assert (np.diff(found) <= 0).all()

    @given(arrays(np.float64, st.integers(1, 12), elements=floats), st.integers(1, 12))
    def test_of_one_direction_has_an_ipr_of_1(self, row: np.ndarray[Any, Any], count: int) -> None:
        row[0] += 11
        found = told(np.outer(np.arange(1.0, count + 1), row))
        assert found["ipr"] == pytest.approx(1)
        assert found["effective_rank"] == pytest.approx(1, abs=1e-5)

    @given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**32 - 1), st.floats(0.1, 10))
    def test_of_r_equal_directions_has_an_ipr_of_1_over_r(
        self, rank: int, more: int, seed: int, scale: float
    ) -> None:
        drawn = np.random.default_rng(seed).normal(size=(rank + more, rank))
        found = told(scale * np.linalg.qr(drawn)[0])
        assert found["ipr"] == pytest.approx(1 / rank)
        assert found["effective_rank"] == pytest.approx(rank)
        assert found["spectrum"][:rank] == pytest.approx(np.full(rank, 1 / rank))

    @pytest.mark.parametrize(
        "features", [np.zeros((0, 4)), np.zeros((3, 4)), np.full((2, 2), np.nan), [[np.inf, 1]]]
    )
    def test_of_nothing_is_unknown(self, features: Any) -> None:
        found = told(np.asarray(features, dtype=np.float64))
        assert all(np.isnan(numbers).all() for numbers in found.values())
        assert {n: len(v) for n, v in found.items()} == {
            name.partition(".")[2]: count for name, count in METRIC.extras().items()
        }

    def test_distance_counts_what_was_not_kept_as_one(self) -> None:
        spectra = np.array([[0.5, 0.3], [1.0, 0.0], [0.25, 0.25], [0.5, 0.3]])
        others = np.array([[0.5, 0.3], [0.0, 0.0], [0.5, 0.25], [0.3, 0.3]])
        assert distance(spectra, others).tolist() == pytest.approx([0, 1, 0.25, 0.2])


def drawn(n: int, seed: int, changed: bool = True) -> Pairs:
    """Pairs with spectra, three to a cluster; what moves more changes more often."""
    rng = np.random.default_rng(seed)
    ids = [f"q{i:03}" for i in range(n)]
    base = Outcomes.from_columns(
        ids, answer=["a"] * n, correct=[True] * n, cluster=[f"c{i // 3}" for i in range(n)]
    )
    before, after = rng.uniform(0.2, 0.4, n), rng.uniform(0.2, 0.4, n)
    flips = (np.abs(after - before) + rng.normal(0, 0.05, n) > 0.09) & changed
    variant = Outcomes.from_columns(
        ids,
        answer=np.where(flips, "b", "a").tolist(),
        correct=~flips,
        cluster=base.cluster,
    )

    def extras(ipr: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        spectrum = np.zeros((n, KEPT))
        spectrum[:, 0] = ipr
        return {
            f"{site}.{name}": values
            for site in SITES
            for name, values in (
                ("spectrum", spectrum),
                ("energy", ipr),
                ("ipr", ipr),
                ("effective_rank", 1 / ipr),
            )
        }

    return pair(replace(base, extras=extras(before)), replace(variant, extras=extras(after)))


def values(pairs: Pairs) -> dict[str, Any]:
    return {value.name: value for value in METRIC.compute(pairs)}


class TestNumbers:
    def test_means_and_correlation(self) -> None:
        pairs = drawn(300, seed=1)
        found = values(pairs)
        before, after = (side.extras["llm_input.ipr"] for side in (pairs.base, pairs.variant))
        assert found["llm_input.ipr_base"].value == pytest.approx(before.mean())
        assert found["llm_input.ipr_delta"].value == pytest.approx((after - before).mean())
        moved = np.abs(after - before)
        assert found["llm_input.spectral_distance"].value == pytest.approx(moved.mean())
        rank = found["last_layer.effective_rank_delta"]
        assert rank.value == pytest.approx((1 / after - 1 / before).mean())
        assert (rank.n, rank.low < rank.value < rank.high) == (300, True)
        area = found["llm_input.ipr_change_flip_auroc"]
        related = found["llm_input.ipr_change_flip_correlation"]
        assert related.value == pytest.approx(spearmanr(moved, pairs.changed).statistic)
        assert related.value > 0.3
        assert (area.low > 0.5, related.low > 0) == (True, True)
        assert related.low < related.value < related.high

    def test_shared_pictures_widen_the_intervals(self) -> None:
        one = drawn(60, seed=2)
        # The same sixty rows three times over, each time in the cluster that they were in.
        rows = np.tile(np.arange(60), 3)
        copies = values(one.select(rows))["last_layer.ipr_delta"]
        free = values(replace(one.select(rows), cluster=np.arange(180).astype(object)))
        width = copies.high - copies.low
        assert width > 1.3 * (free["last_layer.ipr_delta"].high - free["last_layer.ipr_delta"].low)

    def test_rows_of_one_side_only_are_left_out(self) -> None:
        pairs = drawn(30, seed=3)
        pairs.variant.extras["last_layer.ipr"][:10] = np.nan
        found = values(pairs)
        assert {found[f"last_layer.{n}"].n for n in ("ipr_base", "ipr_delta")} == {20}
        assert found["llm_input.ipr_base"].n == 30
        pairs.variant.extras["last_layer.ipr"][:] = np.nan
        assert {v.value for name, v in values(pairs).items() if name.startswith("last")} == {None}

    def test_without_a_change_there_is_no_correlation(self) -> None:
        found = values(drawn(30, seed=4, changed=False))
        assert found["llm_input.ipr_change_flip_correlation"].value is None
        assert found["llm_input.ipr_change_flip_auroc"].value is None


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda cls: cls.__name__)
def loaded(request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    model = request.param(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as opened:
        yield opened


def prompts() -> list[Prompt]:
    """Questions of several lengths about one picture, another, two, and none."""
    rng = np.random.default_rng(0)
    first, second = (
        Image.from_pixels(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)
    )
    long = "what colour is the shape at the top left of the picture?"
    asked = (((first,), "is it red?"), ((second,), long), ((first, second), "how many?"))
    return [
        Prompt(f"q{i}", images, text) for i, (images, text) in enumerate((*asked, ((), "why?")))
    ]


def half(context: Context) -> Reduction:
    return Reduction(torch.arange(0, context.visual_tokens, 2))


def everything(context: Context) -> Reduction:
    return Reduction(torch.arange(context.visual_tokens))


def recorded(model: LoadedModel, asked: list[Prompt], plan: Any = None) -> Any:
    with Patch() as patch:
        if plan:
            reduce_visual_tokens(model, plan, patch)
        take = record_spectra(model, SITES, KEPT, patch)
        model.generate(model.encode(asked), OPTIONS)
        return take()


@pytest.mark.parametrize("plan", [None, {0: half}, {2: half}], ids=["whole", "before", "inside"])
def test_neither_padding_nor_company_enters_a_spectrum(loaded: LoadedModel, plan: Any) -> None:
    together = recorded(loaded, prompts(), plan)
    assert len(together) == len(prompts())
    for prompt in prompts():
        (alone,) = recorded(loaded, [prompt], plan).values()
        for name, numbers in together[prompt.instance_id].items():
            assert numbers == pytest.approx(alone[name], rel=1e-4, abs=1e-6, nan_ok=True), name
            assert np.isnan(numbers).all() == (not prompt.images), name


def test_all_pictures_of_a_question_count(loaded: LoadedModel) -> None:
    found = recorded(loaded, prompts())
    energy = {i: found[i]["llm_input.energy"].item() for i in ("q0", "q1", "q2")}
    assert energy["q2"] == pytest.approx(energy["q0"] + energy["q1"], rel=0.02)


def test_keeping_all_moves_nothing(loaded: LoadedModel) -> None:
    before = recorded(loaded, prompts())
    for layer in (0, 2):
        after = recorded(loaded, prompts(), {layer: everything})
        for instance_id, extras in before.items():
            for name, numbers in extras.items():
                assert np.array_equal(numbers, after[instance_id][name], equal_nan=True)


def test_answers_stay_to_the_last_bit(loaded: LoadedModel) -> None:
    def answers() -> Any:
        told = loaded.generate(loaded.encode(prompts()), GenerationOptions(max_new_tokens=6))
        return [(p.token_ids, p.logprobs, p.top, p.visual_tokens, p.token_depths) for p in told]

    for plan in (None, {2: half}):
        with Patch() as patch:
            if plan:
                reduce_visual_tokens(loaded, plan, patch)
            before = answers()
            with Patch() as inner:
                METRIC.record(loaded, inner)
                assert answers() == before


REGISTRY = Registry()
REDUCTIONS = sorted(
    name
    for name in REGISTRY.names(Kind.ACCELERATOR)
    if REGISTRY.find(Kind.ACCELERATOR, name).distribution == "stabfw"
    and issubclass(REGISTRY.load(Kind.ACCELERATOR, name), TokenReduction)
)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_it_sees_what_every_method_leaves(loaded: LoadedModel, name: str) -> None:
    """As many tokens as the predictions tell, so the rank is at most that."""
    cls: Any = REGISTRY.load(Kind.ACCELERATOR, name)
    method = cls(cls.config_cls())
    if method.supports(loaded.info, loaded.request) is not None:
        pytest.skip("not on this model")
    artefact = method.at_hand(loaded.info)
    if method.needs_fit and artefact is None:
        pytest.skip("has to be fitted")
    with Patch() as patch:
        method.attach(loaded, artefact, patch)
        take = METRIC.record(loaded, patch)
        answers = loaded.generate(loaded.encode(prompts()), OPTIONS)
        told = take()
    for prompt, prediction in zip(prompts(), answers, strict=True):
        for site, left in (
            ("llm_input", prediction.visual_tokens[0]),
            ("last_layer", prediction.visual_tokens[-1]),
        ):
            spectrum = told[prompt.instance_id][f"{site}.spectrum"]
            assert np.isnan(spectrum).all() == (left == 0)
            assert np.count_nonzero(np.nan_to_num(spectrum) > 1e-12) <= left


SPEC: dict[str, Any] = {
    "stabfw": 1,
    "name": "spectra",
    "models": ["tiny-llava"],
    "stacks": {
        "fastv": [{"type": "fastv", "layer": 2, "keep_ratio": 0.25}],
        "hqq": [{"type": "hqq", "bits": 3}],
        "lofi": [{"type": "lofi", "keep_ratio": 0.25}],
    },
    "benchmarks": [{"type": "shapes", "limit": 24}],
    "controls": {"noise_floor": None, "lossless": True},
    "metrics": ["representation"],
    "generation": {"max_new_tokens": 4},
    "batch_size": 8,
    "tracking": {"uri": None},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of `stabfw run`, and of the same without the metric."""
    folder = tmp_path_factory.mktemp("spectra")
    found = []
    for name, changes in (("with", {}), ("without", {"metrics": []})):
        (folder / f"{name}.yaml").write_text(json.dumps({**SPEC, **changes, "name": name}))
        done = subprocess.run(
            [str(Path(sys.executable).parent / "stabfw"), "run", f"{name}.yaml"],
            cwd=folder,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(load_results(folder / "runs" / name / "results.json"))
    return folder, *found


def test_a_run_tells_how_spectra_change(finished: Any) -> None:
    _, results, _ = finished
    by_stack = {c.condition.stack: c.metrics for c in results.comparisons}
    assert by_stack.keys() == {"fastv", "hqq", "lofi", "attention-eager"}

    def value(stack: str, name: str) -> float:
        found = by_stack[stack][f"representation.{name}"]
        assert found.n == 24
        assert found.low is not None
        assert found.value is not None
        return float(found.value)

    for stack in ("fastv", "hqq"):
        # Neither touches what the language model receives.
        assert value(stack, "llm_input.ipr_delta") == 0
        assert value(stack, "llm_input.spectral_distance") == 0
        assert 0 < value(stack, "llm_input.ipr_base") < 1
    assert value("fastv", "last_layer.effective_rank_delta") < -5
    assert value("fastv", "last_layer.spectral_distance") > 0.02
    assert value("hqq", "last_layer.spectral_distance") > 0.002
    # What a stack does before the first layer is done when the metric looks.
    assert value("lofi", "llm_input.effective_rank_delta") < -5
    for site in SITES:
        assert abs(value("attention-eager", f"{site}.ipr_delta")) < 1e-6
        assert abs(value("attention-eager", f"{site}.effective_rank_delta")) < 1e-4
        assert value("attention-eager", f"{site}.spectral_distance") < 1e-6


def test_a_run_answers_the_same_with_and_without(finished: Any) -> None:
    folder, *_ = finished
    told = []
    with Store(folder / ".stabfw" / "store") as store:
        for name in ("with", "without"):
            changes = {} if name == "with" else {"metrics": []}
            spec = parse_spec({**SPEC, **changes}, REGISTRY)
            plan = make_plan(spec, REGISTRY, store)
            told.append(
                {
                    (c.stack, i): (p.token_ids, p.logprobs, p.top, p.options)
                    for c, key in plan.named.items()
                    for i, (_, p) in store.predictions(key).items()
                }
            )
            stored = {bool(store.extras(c.key, r.key)) for c in plan.cells for r in c.recorders}
            assert stored == ({True} if name == "with" else set())
    assert told[0] == told[1]
    assert len(told[0]) == 5 * 24


def test_an_endpoint_is_told_of_when_planning(tmp_path: Path) -> None:
    models = [{"type": "openai-endpoint", "url": "http://127.0.0.1:9/v1", "model": "served"}]
    spec = parse_spec(
        {**SPEC, "models": models, "stacks": {}, "controls": {"noise_floor": None}}, REGISTRY
    )
    with Store(tmp_path) as store:
        plan = make_plan(spec, REGISTRY, store)
        plain = make_plan(spec.model_copy(update={"metrics": ()}), REGISTRY, store)
    (notice,) = (notice for notice in plan.notices if notice.startswith("representation"))
    assert "nothing is recorded of" in notice
    assert "so its numbers are null there: the parts of a" in notice
    assert plan.named == plain.named
    assert {c.role for c in plan.named} == {Role.BASELINE}
