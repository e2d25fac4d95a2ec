"""Every built-in plugin keeps to every check."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stabfw.components import Accelerator, Kind
from stabfw.registry import Registry
from stabfw.testing import BoundCheck, parametrize_with_checks
from stabfw_benchmarks.hub import HubBenchmark
from stabfw_models.tiny import WEIGHTS, TinyConfig, TinyLlava

REGISTRY = Registry()
BUILT_IN = [
    (plugin.kind, plugin.name)
    for plugin in REGISTRY.plugins()
    if plugin.distribution == "stabfw" and plugin.kind is not None
]
#: What a plugin cannot be tried without.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "custom": {"path": str(Path(__file__).parent / "questions")},
    "hf-vlm": {"source": str(WEIGHTS / "tiny-llava")},
    "llava": {"source": str(WEIGHTS / "tiny-llava")},
}
#: Tried where there is what they need: another checkpoint, one of their family, a server, data,
#: a compiler.
TRIED_ELSEWHERE = {
    *(() if shutil.which("g++") else ("compile",)),
    *("llava-next", "openai-endpoint", "qwen2-vl", "qwen2.5-vl", "replace"),
    *(
        name
        for kind, name in BUILT_IN
        if kind is Kind.BENCHMARK and issubclass(REGISTRY.load(kind, name), HubBenchmark)
    ),
}
#: What a method is known not to keep to.
FAILURES: Mapping[str, Mapping[str, str]] = {
    "llm-int8": {"check_batch_equals_single": "outliers are looked for in the whole batch"},
}
#: Tried by `make check-all` only: fitted several times, or by kernels that are slow in float32.
SLOW = {"awq", "compile", "gptq", "smoothquant"}
TINY = TinyLlava(TinyConfig(device="cpu", threads=1))


def tried(slow: bool) -> Any:
    return parametrize_with_checks(
        [
            (kind, name, CONFIGS.get(name))
            for kind, name in BUILT_IN
            if name not in TRIED_ELSEWHERE and (name in SLOW) == slow
        ],
        registry=REGISTRY,
        expected_failures={n: told for n, told in FAILURES.items() if (n in SLOW) == slow},
        model=TINY,
    )


@tried(slow=False)
def test_conformance(check: BoundCheck) -> None:
    check()


@pytest.mark.slow
@tried(slow=True)
def test_conformance_of_slow_ones(check: BoundCheck) -> None:
    check()


@pytest.mark.parametrize(
    "name",
    [n for kind, n in BUILT_IN if kind is Kind.ACCELERATOR and n not in TRIED_ELSEWHERE],
)
def test_accelerators_are_really_tried(name: str) -> None:
    """A model that is not supported would make most checks of an accelerator inapplicable."""
    cls = REGISTRY.load(Kind.ACCELERATOR, name)
    accelerator = cls(cls.config_cls())
    assert isinstance(accelerator, Accelerator)
    request = TINY.request()
    assert accelerator.supports(TINY.describe(request), request) is None
