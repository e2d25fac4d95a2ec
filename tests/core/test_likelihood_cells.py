"""Options chosen by likelihood, and cells that score the answers of a baseline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stabfw.components import FinishReason, Prediction
from stabfw.errors import SpecError
from stabfw.experiment import Run, run
from stabfw.plan import Condition, Plan, Role, make_plan
from stabfw.registry import Registry
from stabfw.report.instances import read_instances
from stabfw.report.layout import INSTANCES, cell_directory
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec
from stabfw.store import Store
from test_interruption import check_whole, metrics, start

Make = Callable[..., ExperimentSpec]
SCORED = {"noise_floor": {"repeats": 1}, "baseline_likelihood": True}
DRIFT: dict[str, Any] = {"stacks": {"half": ["half"]}, "compare": "deployed", "controls": SCORED}


def plan(spec: ExperimentSpec, registry: Registry) -> Plan:
    with Store(spec.store) as store:
        return make_plan(spec, registry, store)


def answers(spec: ExperimentSpec, registry: Registry) -> dict[Condition, dict[str, Prediction]]:
    named = plan(spec, registry).named
    with Store(spec.store) as store:
        return {
            condition: {i: prediction for i, (_, prediction) in store.predictions(key).items()}
            for condition, key in named.items()
        }


def of(found: dict[Condition, Any], role: Role, stack: str = "") -> Any:
    (value,) = [v for c, v in found.items() if c.role is role and stack in (c.stack, "")]
    return value


def delta(done: Run, stack: str) -> Any:
    (comparison,) = [c for c in done.results.comparisons if c.condition.stack == stack]
    return comparison.metrics["answer_loglik_delta"]


class TestBaselineLikelihood:
    @pytest.mark.parametrize("executor", ["inline", "process"])
    def test_each_stack_scores_the_answers_of_its_baseline(
        self, make_spec: Make, registry: Registry, executor: str
    ) -> None:
        spec = make_spec(**DRIFT, execution={"executor": executor, "workers": 2})
        done = run(spec, registry=registry)
        assert not done.results.failures
        found = answers(spec, registry)
        base, scored = of(found, Role.BASELINE), of(found, Role.LIKELIHOOD)
        assert len(scored) == 100
        for instance_id, prediction in scored.items():
            assert prediction.text == base[instance_id].text
            assert prediction.token_ids == base[instance_id].token_ids
        change = [scored[i].logprobs[0] - base[i].logprobs[0] for i in base]
        assert np.std(change) > 0.1
        assert delta(done, "half").value == pytest.approx(np.mean(change))
        assert delta(done, "half").low < np.mean(change) < delta(done, "half").high
        # It is no answer of a model, so it has no accuracy.
        assert {c.condition.role for c in done.results.cells} == {
            Role.BASELINE,
            Role.FLOOR,
            Role.STACK,
        }

    @pytest.mark.parametrize("executor", ["inline", "process"])
    def test_baselines_go_first_whatever_the_order_of_the_stacks(
        self, make_spec: Make, registry: Registry, executor: str
    ) -> None:
        """Here they share a loaded model with stacks, which change nothing that is scored."""
        stacks = {f"s{i}": [{"type": "planted", "answers": {"x": f"{i}"}}] for i in range(6)}
        spec = make_spec(
            stacks={**stacks, "half": ["half"]},
            controls=SCORED,
            execution={"executor": executor, "workers": 2},
        )
        done = run(spec, registry=registry)
        assert not done.results.failures
        for stack in spec.stacks:
            assert (delta(done, stack).value, delta(done, stack).n) == (0, 100)

    def test_asking_for_it_later_computes_nothing_else(
        self, make_spec: Make, registry: Registry
    ) -> None:
        run(make_spec(**{**DRIFT, "controls": {"noise_floor": {"repeats": 1}}}), registry=registry)
        assert run(make_spec(**DRIFT), registry=registry).computed == 1
        assert run(make_spec(**DRIFT), registry=registry).computed == 0

    def test_model_is_loaded_once_for_a_stack_and_what_it_scores(
        self, make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stabfw_test_plugins.parrot import LoadedParrot

        loads, original = [], LoadedParrot.__init__

        def load(self: Any, config: Any, info: Any, request: Any) -> None:
            loads.append(request.dtype)
            original(self, config, info, request)

        monkeypatch.setattr(LoadedParrot, "__init__", load)
        run(make_spec(**DRIFT), registry=registry)
        assert loads == ["float32", "bfloat16"]

    def test_without_an_answer_there_is_nothing_to_score(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        unreadable = {"type": "questions", "path": str(questions), "broken": 3}
        done = run(make_spec(**DRIFT, benchmarks=[unreadable]), registry=registry)
        assert not done.results.failures
        assert delta(done, "half").n == 97
        (note,) = [n for n in done.results.notices if "could not be scored" in n]
        assert "answers of the baseline that could not be scored: 3; the first: the base" in note
        (other,) = [n for n in done.results.notices if "could not be asked" in n]
        assert "no rate: 3; the first: " in other
        assert "not a readable image" in other
        assert "no answer to be scored" not in other

    def test_not_run_if_the_baseline_failed(
        self, make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stabfw_test_plugins.parrot import LoadedParrot

        original = LoadedParrot.generate

        def generate(self: Any, encoded: Any, options: Any) -> Any:
            if self.request.dtype == "float32":
                raise ValueError("planted failure")
            return original(self, encoded, options)

        with monkeypatch.context() as patched:
            patched.setattr(LoadedParrot, "generate", generate)
            done = run(make_spec(**DRIFT), registry=registry)
        reasons = {f.condition.role: f.reason for f in done.results.failures}
        assert reasons[Role.BASELINE] == "ValueError: planted failure"
        assert reasons[Role.LIKELIHOOD] == (
            "not run, because the baseline whose answers it scores failed: ValueError: planted "
            "failure"
        )
        assert [c.condition.stack for c in done.results.cells] == ["half"]
        again = run(make_spec(**DRIFT), registry=registry)
        assert not again.results.failures
        assert delta(again, "half").n == 100

    def test_model_that_cannot_score_is_unsupported(
        self, make_spec: Make, registry: Registry
    ) -> None:
        spec = make_spec(**DRIFT, models=[{"type": "parrot", "can_score": False}])
        done = run(spec, registry=registry)
        (failure,) = done.results.failures
        assert (failure.condition.role, failure.status) == (Role.LIKELIHOOD, "unsupported")
        assert failure.reason == "parrot cannot score given answers"
        assert len(done.results.comparisons) == 1

    def test_tokens_that_are_another_text_are_not_scored(
        self, make_spec: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stabfw_test_plugins import parrot

        original = parrot.LoadedParrot.score

        def score(self: Any, encoded: Any, continuations: Any, options: Any) -> Any:
            other = [[((token + 1) % 10,) for (token,) in row] for row in continuations]
            return original(self, encoded, other, options)

        monkeypatch.setattr(parrot.LoadedParrot, "score", score)
        (failure,) = run(make_spec(**DRIFT), registry=registry).results.failures
        assert "the two models have different tokenizers" in failure.reason

    @pytest.mark.parametrize("executor", ["inline", "process"])
    def test_killed_while_it_scores_it_goes_on_to_the_same_numbers(
        self, make_spec: Make, registry: Registry, tmp_path: Path, executor: str
    ) -> None:
        shared = {
            **DRIFT,
            "models": [{"type": "parrot", "delay_ms": 30, "batch_sensitive": 0.2}],
            "batch_size": 4,
            "execution": {"executor": executor, "workers": 2},
        }
        whole = run(make_spec(**shared, store=str(tmp_path / "whole")), registry=registry)
        spec = make_spec(**shared, runs=str(tmp_path / "killed"))
        key = of(dict(plan(spec, registry).named), Role.LIKELIHOOD)
        begun: list[int] = []
        for _ in range(3):
            process = start(spec)
            last = begun[-1] if begun else 0
            with Store(spec.store) as store:
                while len(store.committed(key)) <= last and process.poll() is None:
                    time.sleep(0.01)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with Store(spec.store) as store:
                begun.append(len(store.committed(key)))
        assert 0 < begun[0] < begun[1] < begun[2] < 25
        assert start(spec).wait() == 0
        resumed = load_results(tmp_path / "killed" / "test" / "results.json")
        assert metrics(resumed) == metrics(whole.results)
        check_whole(spec, per_cell=100)


class TestLikelihoodMode:
    def test_the_likeliest_option_is_the_answer(
        self, make_spec: Make, registry: Registry, questions: Path
    ) -> None:
        spec = make_spec(
            benchmarks=[{"type": "questions", "path": str(questions), "choices": True}],
            generation={"mode": "likelihood"},
        )
        done = run(spec, registry=registry)
        assert not done.results.failures
        found = of(answers(spec, registry), Role.BASELINE)
        with Store(spec.store) as store:
            (cell, *_) = plan(spec, registry).cells
            read = store.scores(cell.key, cell.dataset.scorer)
        for instance_id, prediction in found.items():
            best = max(prediction.options, key=lambda i: prediction.options[i])
            assert read[instance_id][0].value == best
            assert prediction.text == {"first": "A", "second": "B"}[best]
            assert sum(map(exp, prediction.options.values())) == pytest.approx(1)
        assert len({p.text for p in found.values()}) == 2

    def test_questions_without_options_are_refused(
        self, make_spec: Make, registry: Registry
    ) -> None:
        spec = make_spec(generation={"mode": "likelihood"})
        with pytest.raises(SpecError, match=r"100 of 100 questions of benchmark .* have none"):
            run(spec, registry=registry)

    def test_kinds_that_cannot_be_answered_are_named(
        self, make_spec: Make, registry: Registry
    ) -> None:
        spec = make_spec(
            models=["tiny-llava"],
            benchmarks=[{"type": "shapes", "limit": 60}],
            generation={"mode": "likelihood"},
        )
        message = r"kinds: color, count, shape; .* ask only exist, mc_color, mc_count, mc_shape, or"
        with pytest.raises(SpecError, match=message):
            run(spec, registry=registry)

    def test_served_model_is_unsupported(self, make_spec: Make, registry: Registry) -> None:
        spec = make_spec(
            models=[{"type": "openai-endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}],
            benchmarks=[{"type": "shapes", "limit": 4, "kinds": ["exist"]}],
            stacks={"other": [{"type": "replace", "source": "http://127.0.0.1:8/v1"}]},
            generation={"mode": "likelihood"},
        )
        done = run(spec, registry=registry)
        assert done.computed == 0
        assert [f.status for f in done.results.failures] == ["unsupported"] * 2
        assert all("cannot score given answers" in f.reason for f in done.results.failures)


class TestRealModel:
    """On the embedded model, with a token reduction and a quantization."""

    def spec(self, make_spec: Make, **changes: Any) -> ExperimentSpec:
        return make_spec(
            models=[{"type": "tiny-llava", "device": "cpu", "threads": 1}],
            benchmarks=[{"type": "shapes", "limit": 16, "kinds": ["exist", "mc_color"]}],
            stacks={
                "fastv": [{"type": "fastv", "layer": 2, "keep_ratio": 0.25}],
                "hqq": [{"type": "hqq", "bits": 2}],
            },
            controls=SCORED,
            batch_size=4,
            **changes,
        )

    def test_both_ways_to_answer_agree_and_are_recorded(
        self, make_spec: Make, registry: Registry
    ) -> None:
        generating = self.spec(make_spec, name="generate")
        choosing = self.spec(make_spec, name="likelihood", generation={"mode": "likelihood"})
        written, chosen = run(generating, registry=registry), run(choosing, registry=registry)
        assert not written.results.failures + chosen.results.failures
        # Nothing is shared: the mode is part of every key.
        assert chosen.computed == written.computed == 6
        one, other = answers(generating, registry), answers(choosing, registry)
        for role, stack in (
            (Role.BASELINE, ""),
            (Role.STACK, "fastv"),
            (Role.STACK, "hqq"),
        ):
            here, there = of(one, role, stack or "baseline"), of(other, role, stack or "baseline")
            for instance_id, prediction in here.items():
                # Options are single tokens, so the first token decides both.
                assert there[instance_id].options == pytest.approx(prediction.options, abs=1e-5)
                assert there[instance_id].token_ids == prediction.token_ids[:1]
                assert there[instance_id].decode_ms == 0 < there[instance_id].prefill_ms
                assert there[instance_id].finish is FinishReason.STOP
                assert prediction.decode_ms > 0
        for done, found in ((written, one), (chosen, other)):
            for stack in ("fastv", "hqq"):
                base = of(found, Role.BASELINE, "baseline")
                scored = of(found, Role.LIKELIHOOD, stack)
                change = [sum(scored[i].logprobs) - sum(base[i].logprobs) for i in base]
                assert delta(done, stack).value == pytest.approx(np.mean(change))
                assert max(map(abs, change)) > 1e-3
                # Where the stack answers the same, it says the same of its answer.
                own = of(found, Role.STACK, stack)
                same = [i for i in base if own[i].token_ids == base[i].token_ids]
                assert same
                assert all(own[i].logprobs == scored[i].logprobs for i in same)
        page = (written.directory / "report.html").read_text()
        assert "Log-likelihood of the baseline" in page
        assert "prefill_ms_median" in page
        comparison = written.results.comparisons[0]
        table = cell_directory(written.directory, comparison.condition) / INSTANCES
        for row in read_instances(table):
            prediction = of(one, Role.STACK, "fastv")[row.instance_id]
            assert row.variant.options == prediction.options
            assert row.variant.options_logprob == prediction.options_logprob
            assert row.variant.prefill_ms == prediction.prefill_ms
