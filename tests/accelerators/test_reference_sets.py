"""Against the authors' own code: the tokens that it kept, or the integers that it rounded to.

Each file of `reference_sets` says whose code was run, at which commit, and what of it was replaced.
That code is not here. `reference_inputs` makes the random inputs, the same for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_inputs import HEADS, QUESTION, SIZE, START, Inputs, fingerprint, make, sums
from stabfw.components.reduction import Context, Reduction, Sight, Stage, Tokens
from stabfw_accelerators.dart import Dart, DartConfig
from stabfw_accelerators.divprune import DivPrune, DivPruneConfig
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.gptq.method import solve
from stabfw_accelerators.holov import HoloV, HoloVConfig
from stabfw_accelerators.prumerge import PruMerge, PruMergeConfig
from stabfw_accelerators.pyramiddrop import PyramidDrop, PyramidDropConfig
from stabfw_accelerators.sparsevlm import SparseVlm, SparseVlmConfig
from stabfw_accelerators.token_reduction import TokenReduction
from stabfw_accelerators.tome import ToMe, ToMeConfig
from stabfw_accelerators.visionzip import VisionZip, VisionZipConfig
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

Case = dict[str, Any]

SETS = Path(__file__).parent / "reference_sets"


@cache
def document(method: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((SETS / f"{method}.json").read_text())
    return found


def cases(method: str) -> Any:
    """Run a test once for each case of a method, with its inputs."""
    found = document(method)["cases"]
    return pytest.mark.parametrize(
        ("case", "given"),
        [(case, method) for case in found],
        ids=[f"{case['tokens']}-seed{case['seed']}" for case in found],
        indirect=["given"],
    )


@pytest.fixture
def given(request: pytest.FixtureRequest, case: Case) -> Inputs:
    inputs = make(request.param, case)
    assert fingerprint(inputs) == pytest.approx(case["fingerprint"], rel=1e-6), (
        "other random numbers"
    )
    return inputs


@dataclass
class Drawn(Stage):
    """A stage whose attention (heads, length, length) and keys (heads, length, size) are drawn."""

    attentions: Mapping[int, torch.Tensor] = field(default_factory=dict)
    drawn_keys: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def attention(self, layer: int, rows: tuple[int, ...], row: int) -> torch.Tensor:
        return self.attentions[layer][:, list(rows)]

    def keys(self, layer: int) -> torch.Tensor:
        return self.drawn_keys[layer].transpose(0, 1)[None]


def sequence(visual: int, original: int | None = None) -> tuple[Tokens, torch.Tensor]:
    """One row of text, visual tokens and question, and where its visual tokens were at first."""
    original = original or visual
    places = torch.arange(START + original + QUESTION)
    columns = torch.cat([places[: START + visual], places[START + original :]])
    first, now = ((at >= START) & (at < START + original) for at in (places, columns))
    return Tokens(columns[None], torch.ones_like(now)[None], now[None]), first[None]


def inside(states: torch.Tensor, layer: int, **drawn: Any) -> Context:
    """What a method sees inside the decoder: (length, size)."""
    embedded = drawn.pop("embedded", states)
    tokens, visual = sequence(len(states) - START - QUESTION)
    sight = Sight(visual, {}, None, None, embedded[None])
    return Context(Drawn(layer, states[None], tokens, None, {}, sight, **drawn), 0)


def before(
    features: torch.Tensor, scores: torch.Tensor | None = None, keys: torch.Tensor | None = None
) -> Context:
    """What a method sees before the decoder, of patches only: (tokens, size)."""
    text = torch.zeros(START, SIZE), torch.zeros(QUESTION, SIZE)
    states = torch.cat([text[0], features, text[1]])
    context = inside(states, 0)
    sight = context._stage.sight
    tokens = len(features)
    sight.places = torch.stack([torch.zeros(tokens).long()] * 2 + [torch.arange(tokens)] * 2, 1)
    if scores is not None:
        sight.scores = scores
    if keys is not None:
        sight.keys = keys
    return context


def chosen(method: TokenReduction[Any], context: Context) -> Reduction:
    """Do what the method does at its only stage."""
    stages = method.stages(32)
    return method.select(context.layer, stages[context.layer])(context)


def agreement(found: torch.Tensor | Sequence[int], reference: Sequence[int]) -> float:
    """Share of the tokens kept by either that both keep; as many are kept."""
    ours, theirs = set(torch.as_tensor(found).tolist()), set(reference)
    assert abs(len(ours) - len(theirs)) <= 1
    return len(ours & theirs) / max(len(ours), len(theirs))


@pytest.mark.parametrize("path", sorted(SETS.glob("*.json")), ids=lambda path: path.stem)
def test_sources_are_named(path: Path) -> None:
    source = json.loads(path.read_text())
    assert {
        "repository",
        "file",
        "function",
        "licence",
        "stubbed",
        "inputs",
        "cases",
    } <= source.keys()
    assert len(source["commit"]) == 40


@cases("fastv")
def test_fastv(case: Case, given: Inputs) -> None:
    method = FastV(FastVConfig(keep_ratio=case["keep_ratio"]))
    states = torch.zeros(given["before"].shape[-1], SIZE)
    context = inside(states, 2, attentions={1: given["before"], 2: given["here"]})
    assert agreement(chosen(method, context).keep, case["kept"]) == 1


@cases("pyramiddrop")
def test_pyramiddrop(case: Case, given: Inputs) -> None:
    """With a real layer; the authors round counts down, which here may leave one more."""
    config = LlamaConfig(
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        attn_implementation="eager",
    )
    layer = LlamaDecoderLayer(config, 0).requires_grad_(False)
    layer.input_layernorm.weight.copy_(given["norm"])
    layer.self_attn.q_proj.weight.copy_(given["query"])
    layer.self_attn.k_proj.weight.copy_(given["key"])
    states = given["states"][None]
    tokens, visual = sequence(case["tokens"], case["original"])
    embeddings = LlamaRotaryEmbedding(config)(states, torch.arange(states.shape[1])[None])
    at_first = torch.zeros(1, visual.shape[1], SIZE)
    sight = Sight(visual, {}, None, None, at_first)
    stage = Stage(8, states, tokens, None, {8: (layer, states, embeddings)}, sight)
    select = PyramidDrop(PyramidDropConfig()).select(8, case["keep_ratio"])
    keep = select(Context(stage, 0)).keep
    assert agreement(keep, case["kept"]) >= 0.99
    assert set(case["kept"]) <= set(keep.tolist())


@cases("divprune")
def test_divprune(case: Case, given: Inputs) -> None:
    method = DivPrune(DivPruneConfig(keep_ratio=case["keep_ratio"]))
    assert agreement(chosen(method, before(given["features"])).keep, case["kept"]) >= 0.99


@cases("visionzip")
def test_visionzip(case: Case, given: Inputs) -> None:
    """Merging what is given, where the authors merge the tower's states."""
    dominant, contextual = case["dominant"], case["contextual"]
    count = dominant + contextual
    config = VisionZipConfig(keep_ratio=count / case["tokens"], contextual_share=contextual / count)
    states, keys = given["states"][1:], given["keys"][:, 1:].transpose(0, 1)
    context = before(states, given["attention"].mean(0)[1:], keys)
    reduction = chosen(VisionZip(config), context)
    assert reduction.states is not None
    untouched = (reduction.states == states[reduction.keep]).all(-1)
    assert agreement(reduction.keep[untouched], case["kept"]) == 1
    assert sums(reduction.states[~untouched]) == pytest.approx(case["merged"], abs=0.01)


@cases("prumerge")
def test_prumerge(case: Case, given: Inputs) -> None:
    """With the attention of the authors' block, over its full width."""
    scores = (given["queries"][0] @ given["keys"].T / SIZE**0.5).softmax(-1)[1:]
    keys = given["keys"][1:].view(case["tokens"], HEADS, -1)
    ratio = case["keep_ratio"]
    if ratio is not None:
        # The authors' share is without the token merged from all dropped ones.
        ratio = (len(case["kept"]) + 1) / case["tokens"]
    method = PruMerge(PruMergeConfig(keep_ratio=ratio, plus=case["plus"]))
    context = before(given["states"][1:], scores, keys)
    reduction = method.select(0, 1.0)(context)
    assert reduction.states is not None
    extra = max(set(range(case["tokens"])) - set(case["kept"]))
    merged = dict(zip(reduction.keep.tolist(), sums(reduction.states), strict=True))
    assert merged.pop(extra) == pytest.approx(case["extra"], abs=0.01)
    assert agreement(list(merged), case["kept"]) == 1
    assert list(merged.values()) == pytest.approx(case["merged"], abs=0.01)


@cases("sparsevlm")
def test_sparsevlm(case: Case, given: Inputs) -> None:
    """Without the noise on densities; the clusters' means may stand anywhere."""
    config = SparseVlmConfig(layers=(case["layer"],), keep_ratios=(case["count"] / case["tokens"],))
    context = inside(
        given["states"],
        case["layer"],
        embedded=given["embedded"],
        attentions={case["layer"] - 1: given["attention"]},
    )
    reduction = chosen(SparseVlm(config), context)
    assert reduction.states is not None
    visual = given["states"][START:-QUESTION]
    kept = (reduction.states == visual[reduction.keep]).all(-1)
    assert agreement(reduction.keep[kept], case["kept"]) == 1
    found = sums(reduction.states[~kept])
    assert sorted(found) == pytest.approx(sorted(case["merged"]), abs=0.01)


@cases("dart")
def test_dart(case: Case, given: Inputs) -> None:
    """Without the final norm; pivots take turns in the order of the sequence."""
    method = Dart(DartConfig(keep_ratio=case["count"] / case["tokens"]))
    keys = {1: given["keys"], 2: given["keys"].flip(1)}
    context = inside(given["states"], 2, drawn_keys=keys)
    assert agreement(chosen(method, context).keep, case["kept"]) >= 0.99


@cases("holov")
def test_holov(case: Case, given: Inputs) -> None:
    """Without the variety that cancels out; what the authors fill with zeros is more tokens."""
    method = HoloV(HoloVConfig(keep_ratio=case["count"] / case["tokens"]))
    keep = chosen(method, before(given["features"], given["attention"])).keep.tolist()
    assert len(keep) == case["count"]
    assert len(set(case["kept"]) & set(keep)) / len(case["kept"]) >= 0.99


@cases("tome")
def test_tome(case: Case, given: Inputs) -> None:
    method = ToMe(ToMeConfig(keep_ratio=1 - case["merged_away"] / case["tokens"]))
    reduction = chosen(method, before(given["features"]))
    assert reduction.states is not None
    assert agreement(reduction.keep, case["kept"]) == 1
    assert sums(reduction.states) == pytest.approx(case["merged"], abs=0.01)


@cases("gptq")
def test_gptq(case: Case, given: Inputs) -> None:
    """With the scales of the most current weights, where that code's default lags behind."""
    weight, inputs = given["weight"], given["inputs"]
    hessian = inputs.T @ inputs
    rounded = solve(weight, hessian, case["bits"], case["group_size"], case["damping"])
    digits = 2 if case["bits"] == 8 else 1
    codes = "".join(f"{int(code):0{digits}x}" for code in rounded.codes.flatten())
    same = [
        codes[place : place + digits] == case["codes"][place : place + digits]
        for place in range(0, len(case["codes"]), digits)
    ]
    assert len(codes) == len(case["codes"])
    assert sum(same) / len(same) >= 0.99
    assert rounded.scale.flatten().tolist() == pytest.approx(case["scales"], rel=1e-4)
    assert rounded.zero.flatten().tolist() == case["zeros"]
    exact = inputs @ weight.T
    error = float((inputs @ rounded.restored().T - exact).norm() / exact.norm())
    assert error == pytest.approx(case["error"], rel=1e-4)
    assert error == pytest.approx(case["library_error"], rel=1e-4)
