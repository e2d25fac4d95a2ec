"""LVPruning: its modules, their training on a frozen model, and what is kept by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from reductions import attached
from stabfw.components import (
    Artefact,
    Example,
    FitData,
    GenerationOptions,
    ModelInfo,
    Prediction,
    Prompt,
)
from stabfw.components.costs import Flops, Schedule, prefill
from stabfw.components.patch import Patch, fingerprint, weights_digest
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw.components.schedules import lvpruning_module as module_cost
from stabfw.errors import DataError, UnsupportedError
from stabfw.execute.prefill import counted_prefill
from stabfw_accelerators.lvpruning import LVPruning, LVPruningConfig, Training
from stabfw_accelerators.lvpruning.artefacts import about, dump, load
from stabfw_accelerators.lvpruning.decision import Block, Decision
from stabfw_accelerators.lvpruning.training import _forward, _frozen, _Gates, _step
from stabfw_models.tiny import (
    Tiny,
    TinyConfig,
    TinyLlava,
    TinyLlavaNext,
    TinyQwen2Vl,
    TinyQwen25Vl,
)

Ask = Callable[..., list[Prediction]]
LAYERS = (1, 2, 3)
QUICK = Training(batch_size=4, micro_batch_size=4, learning_rate=3e-3, ratio_weight=500)


@pytest.fixture(scope="module")
def data(prompts: tuple[Prompt, ...], baseline: list[Prediction]) -> FitData:
    answered = zip(prompts[:16], baseline, strict=False)
    return FitData(tuple(Example(prompt, answer.text) for prompt, answer in answered))


def decisions(seed: int, size: int = 128, scale: float = 1.0) -> dict[int, Decision]:
    """Untrained modules; a large scale leaves nothing to the noise of the Gumbel-softmax."""
    torch.manual_seed(seed)
    made = {layer: Decision(size, 8) for layer in LAYERS}
    for module in made.values():
        module.head.weight.data *= scale
        module.head.bias.data *= 0
    return made


class TestModules:
    def test_block_is_the_formula(self) -> None:
        """softmax(QKᵀ/√d)V through the output projection, plus Q, then the network, by loops."""
        torch.manual_seed(0)
        block = Block(8, 2).double()
        visual, text = torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
        query, key, value = block.query(visual)[0], block.key(text)[0], block.value(text)[0]
        rows = []
        for token in range(3):
            heads = []
            for part in (slice(0, 4), slice(4, 8)):
                weights = ((key[:, part] @ query[token, part]) / 4**0.5).softmax(0)
                heads.append(weights @ value[:, part])
            rows.append(block.output(torch.cat(heads)) + query[token])
        expected = block.feed_forward(torch.stack(rows))
        assert torch.allclose(block(visual, text, None)[0], expected)

    def test_no_token_looks_at_what_is_no_text(self) -> None:
        decision = Decision(16, 4)
        visual, text = torch.randn(1, 3, 16), torch.randn(1, 5, 16)
        there = torch.tensor([[True, True, False, True, False]])
        told = decision(visual, text, there)
        assert torch.allclose(told, decision(visual, text[:, there[0]]), atol=1e-6)

    def test_parameters_are_those_of_the_paper(self) -> None:
        """About 805 million for a hidden size of 4096, at three modules."""
        with torch.device("meta"):
            count = sum(p.numel() for p in Decision(4096, 8).parameters())
        assert 3 * count == pytest.approx(805e6, rel=0.005)


class TestGates:
    def test_attention_is_that_with_a_mask_inside_the_softmax(self) -> None:
        """exp(A)·M / Σ exp(A)·M, and its gradient, but for the bound on dropped tokens."""
        torch.manual_seed(0)
        scores, values = torch.randn(5, 5).double(), torch.randn(5, 5).double()
        scores[4, 1] = 6
        allowed = torch.ones(5, 5).tril().bool()
        found = []
        for formula in (True, False):
            drawn = torch.tensor([[1, 0, 1, 0, 1]], dtype=torch.double, requires_grad=True)
            if formula:
                mask = torch.where(torch.eye(5).bool(), 1.0, drawn.expand(5, 5))
                weights = scores.exp() * mask * allowed
                attention = weights / weights.sum(-1, keepdim=True)
            else:
                additive = torch.zeros(5, 5).double().masked_fill(~allowed, -1e30)
                nothing = torch.zeros(1, 5).bool()
                gates = _Gates(nothing, nothing, additive[None, None], drawn)
                attention = (scores + gates.mask()[0, 0]).softmax(-1)
            (attention @ values).square().sum().backward()  # type: ignore[no-untyped-call]
            assert drawn.grad is not None
            found.append((attention.detach(), drawn.grad[0]))
        (expected, exact), (attention, gradient) = found
        assert torch.allclose(attention, expected, atol=1e-9)
        most = exact[[0, 2, 4]].abs().max()
        assert exact[1].abs() > 10 * most, "far beyond the bound"
        assert 0 < exact[3].abs() < most
        assert torch.allclose(gradient, exact.clamp(-most, most), atol=1e-9)

    def test_dropped_stays_dropped_and_text_is_never_dropped(self) -> None:
        visual = torch.tensor([[False, True, True, True, True, False]])
        gates = _Gates(visual, ~visual, torch.zeros(1, 1, 6, 6), torch.ones(1, 6))
        keep = torch.tensor([0, 1, 0, 1, 1, 0]).float()
        again = torch.tensor([1, 1, 1, 0, 1, 1]).float()
        for wanted in (keep, again):
            gates.decide(torch.stack([wanted, 1 - wanted], -1)[None] * 1e6, 1.0)
        assert gates.kept.tolist() == [[1, 1, 0, 0, 1, 1]]
        assert [share.tolist() for share in gates.shares] == [[0.75], [0.5]]

    def test_a_dropped_token_is_hidden_as_if_it_were_gone(
        self, tiny: Any, data: FitData, prompts: tuple[Prompt, ...]
    ) -> None:
        """The loss of training equals that of the model from which tokens really are taken."""
        modules = decisions(seed=1, scale=1e6)
        asked = data.examples[:4]
        with _frozen(tiny.module), torch.no_grad():
            loss, shares = _forward(tiny, asked, modules, temperature=1.0)
            whole, _ = _forward(tiny, asked, {5: decisions(0, scale=0.0)[1]}, 1.0)
        left: dict[int, list[float]] = {}

        def wanted(module: Decision) -> Callable[[Context], Reduction]:
            def select(context: Context) -> Reduction:
                with torch.no_grad():
                    keep, remove = module(context.states[None], context.text_states[None])[0].T
                kept = (keep > remove).nonzero()[:, 0]
                share = len(kept) / context.original_visual_tokens
                left.setdefault(context.layer, []).append(share)
                return Reduction(kept)

            return select

        encoded = tiny.encode([e.prompt for e in asked])
        answers = [[tiny.tokens(e.prompt, e.answer)] for e in asked]
        with Patch() as patch:
            plan = {layer: wanted(module) for layer, module in modules.items()}
            reduce_visual_tokens(tiny, plan, patch)
            scored = tiny.score(encoded, answers, GenerationOptions())
        expected = -sum(sum(row[0].logprobs) / len(row[0].logprobs) for row in scored) / 4
        assert float(loss) == pytest.approx(expected, abs=1e-3)
        assert abs(float(whole) - expected) > 0.01
        for share, layer in zip(shares, LAYERS, strict=True):
            assert share.tolist() == pytest.approx(left[layer], abs=1e-6)
            assert 0 < float(share.mean()) < 1


def trained(tiny: Any, data: FitData, training: Training = QUICK) -> Artefact:
    return LVPruning(LVPruningConfig(layers=LAYERS, training=training)).fit(tiny, data)


class TestTraining:
    def test_kept_shares_reach_their_targets_and_the_model_stays_as_it_is(
        self, tiny: Any, data: FitData
    ) -> None:
        curve: dict[int, Mapping[str, float]] = {}

        def progress(done: int, total: int, values: Mapping[str, float]) -> None:
            assert total == 4 * 12
            curve[done] = values

        before = fingerprint(tiny.module), weights_digest(tiny.module)
        learned = [p.requires_grad for p in tiny.module.parameters()]
        training = QUICK.model_copy(update={"epochs": 12})
        artefact = trained(tiny, FitData(data.examples, progress=progress), training)
        assert (fingerprint(tiny.module), weights_digest(tiny.module)) == before
        assert [p.requires_grad for p in tiny.module.parameters()] == learned
        assert list(curve) == list(range(1, 49))
        early, late = (
            [sum(curve[n]["loss_ratio"] for n in steps) / 8]
            for steps in (range(1, 9), range(41, 49))
        )
        assert late[0] < 0.5 * early[0]
        for name, target in (("kept_1", 0.5), ("kept_2", 0.3), ("kept_3", 0.1)):
            found = sum(curve[n][name] for n in range(41, 49)) / 8
            assert found == pytest.approx(target, abs=min(0.12, target / 2))
        known = about(artefact.data, "")
        assert (known["layers"], known["heads"], known["family"]) == ([1, 2, 3], 8, "llava")
        assert known["training"]["epochs"] == 12

    def test_interrupted_training_goes_on_to_the_same_modules(
        self, tiny: Any, data: FitData
    ) -> None:
        class StopError(Exception):
            pass

        kept: list[bytes] = []

        def stop(done: int, total: int, values: Mapping[str, float]) -> None:
            if done == 3:
                raise StopError

        torch.manual_seed(1)
        whole = trained(tiny, data)
        with pytest.raises(StopError):
            trained(tiny, FitData(data.examples, keep=kept.append, progress=stop))
        torch.manual_seed(2)
        seen: list[int] = []
        rest = FitData(data.examples, kept[-1], progress=lambda done, *_: seen.append(done))
        assert trained(tiny, rest).data == whole.data
        assert seen == [3, 4]

    def test_small_parts_of_a_batch_add_up(
        self, tiny: Any, data: FitData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without noise, whether alike parts go through the model at once does not matter."""

        def certain(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
            soft = (logits / tau).softmax(-1)
            return (soft > 0.5).float() - soft.detach() + soft

        monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", certain)
        gradients = []
        for size in (4, 2):
            modules = decisions(seed=3)
            weights = [p for module in modules.values() for p in module.parameters()]
            optimizer = torch.optim.SGD(weights, lr=0.0)
            training = QUICK.model_copy(update={"micro_batch_size": size})
            with _frozen(tiny.module):
                _step(tiny, 2 * data.examples[:2], modules, training, optimizer)
            gradients.append(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
        assert gradients[0].norm() == pytest.approx(1, abs=1e-3), "they are clipped"
        assert torch.allclose(*gradients, atol=1e-4)

    def test_shares_are_asked_for_over_all_pictures_of_a_part(
        self, tiny: Any, data: FitData
    ) -> None:
        """The mean is what has to be right, not each picture's share."""
        modules = decisions(seed=4)
        optimizer = torch.optim.SGD([p for m in modules.values() for p in m.parameters()], lr=0.0)
        with _frozen(tiny.module):
            told = _step(tiny, data.examples[:4], modules, QUICK, optimizer)
        missed = [told[f"kept_{n}"] - ratio for n, ratio in enumerate(QUICK.keep_ratios, 1)]
        assert told["loss_ratio"] == pytest.approx(sum(m**2 for m in missed) / 3, abs=1e-7)

    def test_data_without_answers_is_refused(self, tiny: Any, data: FitData) -> None:
        blank = FitData(tuple(Example(e.prompt) for e in data.examples))
        with pytest.raises(DataError, match="no training example has a picture and a gold answer"):
            trained(tiny, blank)


class TestAtHand:
    @pytest.mark.parametrize("kind", [TinyLlava, TinyLlavaNext, TinyQwen2Vl, TinyQwen25Vl])
    def test_modules_left_to_themselves_keep_the_shares_they_were_asked_for(
        self, kind: type[Tiny], prompts: tuple[Prompt, ...]
    ) -> None:
        """About, since six pictures stray from the mean; none has learned to drop everything."""
        made = kind(TinyConfig(device="cpu", threads=1))
        with made.open(made.request()) as model:
            shipped = LVPruning(LVPruningConfig()).at_hand(model.info)
            assert shipped is not None
            modules = load(shipped.data, model, LAYERS)
            asked = [Example(prompt, "yes") for prompt in prompts]
            with _frozen(model.module), torch.no_grad():
                torch.manual_seed(0)
                _, shares = _forward(model, asked, modules, temperature=1.0)
        found = [float(share.mean()) for share in shares]
        assert found == pytest.approx([0.5, 0.3, 0.1], rel=0.5)

    def test_modules_come_with_the_tiny_models_unless_others_are_wanted(self, tiny: Any) -> None:
        def found(**config: Any) -> Artefact | None:
            return LVPruning(LVPruningConfig(**config)).at_hand(tiny.info)

        shipped = found()
        assert shipped is not None
        assert (
            found(keep_ratios=(0.45, 0.25, 0.05))
            == found(layers=LAYERS, positions="renumber")
            == shipped
        )
        assert found(layers=(1, 2, 4)) is found(heads=4) is None
        assert found(training={"learning_rate": 1e-4}) is None
        other = ModelInfo("llava", 6, weights={"model.safetensors": "0" * 64})
        assert LVPruning(LVPruningConfig()).at_hand(other) is None

    def test_file_of_the_user(self, tiny: Any, tmp_path: Path) -> None:
        def found(path: Path) -> Artefact | None:
            return LVPruning(LVPruningConfig(weights=path)).at_hand(tiny.info)

        data = dump(decisions(0), tiny.info, {})
        (tmp_path / "good").write_bytes(data)
        assert found(tmp_path / "good") == Artefact(data)
        for content in (b"", b"no safetensors at all", data[:100]):
            (tmp_path / "bad").write_bytes(content)
            with pytest.raises(DataError, match="bad: not a file of LVPruning's modules"):
                found(tmp_path / "bad")
        with pytest.raises(DataError, match=r"cannot read `weights: .*missing`: No such file"):
            found(tmp_path / "missing")

    def test_modules_of_another_model_are_refused(self, tiny: Any) -> None:
        smaller = dump(decisions(0, size=64), tiny.info, {})
        with pytest.raises(UnsupportedError, match=r"states of size 64, but are to decide .* 128"):
            load(smaller, tiny, LAYERS)
        with pytest.raises(UnsupportedError, match=r"for layers \[1, 2, 3\] .* layers \[1, 2, 4\]"):
            load(dump(decisions(0), tiny.info, {}), tiny, (1, 2, 4))


class TestSelection:
    def test_kept_are_the_best_by_the_difference_of_logits(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        modules = decisions(seed=4)
        artefact = Artefact(dump(modules, tiny.info, {}))
        loaded = load(artefact.data, tiny, LAYERS)
        seen: list[tuple[int, list[int], list[int]]] = []
        method = LVPruning(LVPruningConfig(keep_ratios=(0.45, 0.25, 0.05)))
        method._modules = loaded

        def spying(layer: int, ratio: float) -> Callable[[Context], Reduction]:
            select = method.select(layer, ratio)

            def spy(context: Context) -> Reduction:
                reduction = select(context)
                with torch.no_grad():
                    logits = loaded[layer](context.states[None], context.text_states[None])[0]
                best = (logits[:, 0] - logits[:, 1]).argsort(descending=True)
                kept = reduction.keep.tolist()
                seen.append((layer, kept, sorted(best[: len(kept)].tolist())))
                return reduction

            return spy

        with Patch() as patch, torch.inference_mode():
            plan = {layer: spying(layer, r) for layer, r in method.stages(6).items()}
            reduce_visual_tokens(tiny, plan, patch)
            tiny.module(**tiny.encode(prompts[:2]).inputs)
        tiny.token_depths = ()
        assert [(layer, len(kept)) for layer, kept, _ in seen] == [
            (layer, count) for layer, count in ((1, 29), (2, 16), (3, 3)) for _ in range(2)
        ]
        assert all(kept == best for _, kept, best in seen)

    def test_tokens_are_dropped_where_they_should_whatever_the_batch(
        self, tiny: Any, ask: Ask, baseline: list[Prediction]
    ) -> None:
        method = LVPruning(LVPruningConfig())
        modules = method.at_hand(tiny.info)
        eight, single = attached(method, tiny, lambda: (ask(tiny), ask(tiny, 1)), modules)
        assert {p.visual_tokens for p in eight} == {(64, 32, 19, 6, 6, 6)}
        assert [p.token_ids for p in eight] == [p.token_ids for p in single]
        assert all(a.top != b.top for a, b in zip(eight, baseline, strict=True))
        report = method.report(tiny)
        assert report["engaged"] is True
        assert report["fidelity"] == "unverified"

    def test_counted_cost_is_the_closed_form(self, tiny: Any, prompts: tuple[Prompt, ...]) -> None:
        """What the model saves by fewer tokens, less what the modules cost."""
        made = TinyLlava(TinyConfig(device="cpu", threads=1))
        architecture = made.architecture()
        assert architecture is not None
        method = LVPruning(LVPruningConfig())
        with Patch() as patch, counted_prefill(tiny) as counted:
            method.attach(tiny, method.at_hand(tiny.info), patch)
            encoded = tiny.encode(prompts[:1])
            (answer,) = tiny.generate(encoded, GenerationOptions(max_new_tokens=2))
        text = encoded.inputs["input_ids"].shape[1] - 64
        schedule = Schedule(answer.visual_tokens)
        parts = prefill(architecture, [architecture.image(64, 64)], text, schedule, head="last")
        modules = sum((module_cost(n, text, 128) for n in (64, 32, 19)), Flops()).linear
        assert counted["linear_flops"] == sum(p.linear for p in parts.values()) + modules

    @pytest.mark.parametrize(
        ("layers", "places"),
        [(32, (1, 8, 16)), (28, (1, 7, 14)), (40, (1, 10, 20)), (6, (1, 2, 3)), (4, (1, 2, 3))],
    )
    def test_depths_are_the_authors_at_another_depth(
        self, layers: int, places: tuple[int, ...]
    ) -> None:
        stages = LVPruning(LVPruningConfig()).stages(layers)
        assert tuple(stages) == places
        assert list(stages.values()) == [0.5, 0.3, 0.1]

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"keep_ratios": (0.5, 0.6, 0.1)}, "must not rise"),
            ({"layers": (1, 2)}, "give one for each"),
            ({"keep_ratios": (0.5, 0.1)}, r"training.keep_ratios as many"),
            ({"training": {"keep_ratios": (0.5, 0.3, 0.0)}}, "greater than 0"),
        ],
    )
    def test_senseless_parameters_are_refused(self, config: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            LVPruningConfig(**config)


def test_metadata_is_read_without_torch(tiny: Any) -> None:
    data = dump(decisions(0), tiny.info, {"epochs": 2})
    assert json.loads(json.dumps(about(data, "")))["training"] == {"epochs": 2}
