"""Another dtype halves the weights, changes log-probabilities, and only that of the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stabfw.components import Prediction
from stabfw.errors import SpecError
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
from stabfw_accelerators.dtype import Dtype, DtypeConfig
from stabfw_models.tiny import TinyConfig, TinyLlava

Ask = Callable[..., list[Prediction]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bytes_and_nearly_the_same_answers(
    dtype: Any, ask: Ask, baseline: list[Prediction]
) -> None:
    accelerator = Dtype(DtypeConfig(dtype=dtype))
    model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
    with model.open(accelerator.on_load(model.request())) as loaded:
        answers = ask(loaded)
        report = accelerator.report(loaded)
    assert report["engaged"] is True
    assert (report["dtype"], report["replaced"]) == (dtype, "float32")
    assert 2 * report["bytes_after"] == report["bytes_before"] > 0
    pairs = list(zip(answers, baseline, strict=True))
    assert not accelerator.expects_identical
    assert all(a.top != b.top for a, b in pairs)
    assert sum(a.token_ids == b.token_ids for a, b in pairs) >= 0.9 * len(pairs)


def test_only_the_dtype_of_the_request_changes(tiny: Any) -> None:
    accelerator = Dtype(DtypeConfig())
    assert accelerator.supports(tiny.info, tiny.request) is None
    changed = accelerator.on_load(tiny.request)
    assert changed == replace(tiny.request, dtype="bfloat16")
    assert accelerator.alters == {"dtype"}
    # What was not taken up is not engaged.
    assert accelerator.report(tiny)["engaged"] is False


def test_same_dtype_is_refused(tiny: Any) -> None:
    same = Dtype(DtypeConfig(dtype="float32"))
    assert "in float32 anyway" in str(same.supports(tiny.info, tiny.request))
    assert "elsewhere" in str(same.supports(tiny.info, replace(tiny.request, device="remote")))


def test_baseline_keeps_its_own_and_a_quantizer_beside_it_is_refused(tmp_path: Path) -> None:
    registry = Registry()
    plain = {
        "stabfw": 1,
        "name": "dtype",
        "models": [{"type": "tiny-llava", "dtype": "float32"}],
        "stacks": {"half": ["dtype"]},
        "benchmarks": [{"type": "shapes", "limit": 8}],
        "controls": {"noise_floor": None},
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "tracking": {"uri": None},
    }
    results = run(parse_spec(plain, registry), registry=registry).results
    assert results.failures == ()
    assert {c.condition.stack: c.facts["dtype"] for c in results.cells} == {
        "baseline": "float32",
        "half": "bfloat16",
    }
    with pytest.raises(SpecError, match="dtype and int8 both change the weights"):
        run(parse_spec({**plain, "stacks": {"both": ["dtype", "int8"]}}, registry))
