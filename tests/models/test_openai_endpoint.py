"""A served model answers as it does in process, and trouble on the way loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served
from stabfw.components import GenerationOptions, Prompt
from stabfw.components.patch import Patch
from stabfw.errors import RunError
from stabfw.experiment import Run, run
from stabfw.registry import Registry
from stabfw.report.layout import CHANGES, cell_directory
from stabfw.spec import parse_spec
from stabfw.testing import run_checks
from stabfw_models.openai_endpoint import OpenAiEndpoint, OpenAiEndpointConfig
from stabfw_models.tiny import WEIGHTS, TinyConfig, TinyLlava

OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Any]:
    """A model of its own, since the server answers in other threads."""
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as opened:
        yield opened


@pytest.fixture
def server(loaded: Any) -> Iterator[served.Served]:
    with served.serve(loaded) as started:
        yield started


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


def endpoint(url: str, **fields: Any) -> OpenAiEndpoint:
    settings: dict[str, Any] = {"url": url, "model": "tiny", "timeout_s": 30, **fields}
    return OpenAiEndpoint(OpenAiEndpointConfig(**settings))


def ask(model: OpenAiEndpoint, prompts: tuple[Prompt, ...]) -> Any:
    with model.open(model.request()) as opened:
        return opened.generate(opened.encode(prompts), OPTIONS)


def test_it_answers_as_in_process(
    server: served.Served, loaded: Any, prompts: tuple[Prompt, ...]
) -> None:
    told = ask(endpoint(server.url), prompts)
    here = [p for one in prompts for p in loaded.generate(loaded.encode([one]), OPTIONS)]
    assert [p.text for p in told] == [p.text for p in here]
    assert [p.logprobs for p in told] == [p.logprobs for p in here]
    assert [p.margin for p in told] == [p.margin for p in here]
    assert [p.finish for p in told] == [p.finish for p in here]


def test_it_keeps_to_the_contracts(server: served.Served, registry: Registry) -> None:
    reason = "a server does not tell the ids of tokens"
    results = run_checks(
        "model",
        "openai-endpoint",
        {"url": server.url, "model": "tiny"},
        registry,
        expected_failures={"check_predictions_complete": reason},
    )
    assert all(result.status.good for result in results)


def test_log_probabilities_can_be_left_out(
    server: served.Served, prompts: tuple[Prompt, ...]
) -> None:
    (answer,) = ask(endpoint(server.url, logprobs=False), prompts[:1])
    assert answer.text
    assert (answer.logprobs, answer.top, answer.margin) == ((), (), None)
    # Else answers without them would be reused when they are asked for.
    assert endpoint(server.url).request() != endpoint(server.url, logprobs=False).request()


@pytest.mark.parametrize("trouble", ["429", "500", "503", "cut", "late"])
def test_passing_trouble_is_tried_again(
    server: served.Served, prompts: tuple[Prompt, ...], trouble: str
) -> None:
    expected = [p.text for p in ask(endpoint(server.url), prompts[:6])]
    server.requests = server.answered = 0
    server.trouble = lambda number: trouble if number in (2, 5) else ""
    timeout = 0.4 if trouble == "late" else 30
    told = ask(endpoint(server.url, timeout_s=timeout, concurrency=2), prompts[:6])
    assert [p.text for p in told] == expected
    if trouble != "late":  # A slow machine may be late more often.
        assert (server.requests, server.answered) == (8, 6)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("500", "HTTP 500: .*not now.*, after all tries; give the same command again later"),
        ("cut", "does not answer after 2 tries"),
        ("400", "HTTP 400: .*not now.*; is `model` right"),
        ("odd", "something else than a chat completion"),
    ],
)
def test_lasting_trouble_is_told(
    server: served.Served, prompts: tuple[Prompt, ...], trouble: str, message: str
) -> None:
    server.trouble = lambda number: trouble
    with pytest.raises(RunError, match=message):
        ask(endpoint(server.url, retries=1), prompts[:1])


def test_nobody_there(prompts: tuple[Prompt, ...]) -> None:
    with pytest.raises(RunError, match="does not answer after 1 tries"):
        ask(endpoint("http://127.0.0.1:9/v1", retries=0), prompts[:1])


def test_the_key_comes_from_the_environment_only(
    server: served.Served, prompts: tuple[Prompt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = served.KEY
    named = endpoint(server.url, api_key="${env:STABFW_TEST_KEY}")
    with pytest.raises(RunError, match="variable STABFW_TEST_KEY, which is to hold the key, is no"):
        ask(named, prompts[:1])
    monkeypatch.setenv("STABFW_TEST_KEY", served.KEY)
    assert len(ask(named, prompts[:1])) == 1
    with pytest.raises(RunError, match=r"HTTP 401.*api_key: \$\{env:NAME\}"):
        ask(endpoint(server.url), prompts[:1])
    with pytest.raises(ValueError, match="api_key"):
        endpoint(server.url, api_key=served.KEY)


def compare(registry: Registry, tmp_path: Path, name: str, model: Any, stack: Any) -> Run:
    plain = {
        "stabfw": 1,
        "name": name,
        "models": [model],
        "stacks": {"stack": [stack]},
        "benchmarks": [{"type": "shapes", "limit": 60}],
        "controls": {"noise_floor": None},
        "generation": {"max_new_tokens": 6},
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "tracking": {"uri": None},
    }
    return run(parse_spec(plain, registry), registry=registry)


def changed(done: Run) -> str:
    (comparison,) = done.results.comparisons
    return (cell_directory(done.directory, comparison.condition) / CHANGES).read_text()


def ids(text: str) -> set[str]:
    return {line.split('"')[3] for line in text.splitlines()}


def test_two_servers_are_compared_like_two_stacks(
    server: served.Served, registry: Registry, tmp_path: Path
) -> None:
    """One server with the model as it is, one with FastV: the changes are those in process."""
    fastv = {"type": "fastv", "layer": 1, "keep_ratio": 0.1}
    here = compare(registry, tmp_path, "here", "tiny-llava", fastv)
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(model.request()) as faster, Patch() as patch:
        cls = registry.load("accelerator", "fastv")  # type: ignore[arg-type]
        cls(cls.config_cls(layer=1, keep_ratio=0.1)).attach(faster, None, patch)
        with served.serve(faster) as other:
            at = {"type": "openai-endpoint", "url": server.url, "model": "tiny", "concurrency": 3}
            # Now and then something fails; no answer may be lost or doubled by it.
            server.trouble = other.trouble = lambda n: {4: "500", 7: "cut"}.get(n % 9, "")
            there = compare(
                registry, tmp_path, "there", at, {"type": "replace", "source": other.url}
            )
    assert there.results.failures == ()
    assert len(ids(changed(here))) > 5
    assert ids(changed(there)) == ids(changed(here))
    (ours,), (theirs,) = here.results.comparisons, there.results.comparisons
    assert ours.counts == theirs.counts


def test_a_run_goes_on_when_the_server_is_back(
    server: served.Served, registry: Registry, tmp_path: Path
) -> None:
    at = {"type": "openai-endpoint", "url": server.url, "model": "tiny", "retries": 0}
    stack = {"type": "replace", "source": server.url, "model": "other"}
    server.trouble = lambda number: "503" if number > 30 else ""
    first = compare(registry, tmp_path, "cut", at, stack)
    assert len(first.results.failures) == 2
    assert "after all tries" in first.results.failures[0].reason
    kept = server.answered
    server.trouble = lambda number: ""
    second = compare(registry, tmp_path, "cut", at, stack)
    assert second.results.failures == ()
    # Whole batches of eight were kept: of 30 answers three batches and what was under way.
    assert server.answered - kept == 120 - 24
    assert changed(second) == ""


def test_a_checkpoint_is_compared_with_another(
    registry: Registry, tmp_path: Path, loaded: Any
) -> None:
    other = tmp_path / "other"
    shutil.copytree(WEIGHTS / "tiny-llava", other)
    with (other / "config.json").open("a") as file:
        file.write("\n")
    stack = {"type": "replace", "source": str(other)}
    done = compare(registry, tmp_path, "checkpoints", "tiny-llava", stack)
    base, variant = done.results.cells
    assert base.key != variant.key
    assert variant.report["replace"]["source"] == str(other)
    assert changed(done) == ""


def test_replacing_a_model_by_itself_is_unsupported(registry: Registry, tmp_path: Path) -> None:
    at = {"type": "openai-endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}
    done = compare(registry, tmp_path, "self", at, {"type": "replace", "source": at["url"]})
    (failure,) = [f for f in done.results.failures if f.status == "unsupported"]
    assert "that is what the baseline loads" in failure.reason
