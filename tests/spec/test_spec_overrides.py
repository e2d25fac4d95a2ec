from __future__ import annotations

from typing import Any

import pytest
from stabfw.spec.overrides import OverrideError, override

DATA: dict[str, Any] = {
    "name": "demo",
    "seeds": [0, 1],
    "empty": [],
    "models": ["toy"],
    "stacks": {"a": ["prune", {"type": "quant", "bits": 4}], "a.5": ["prune"]},
    "perturbations": [["noise", "swap"], "noise"],
    "calibration": {"benchmark": "cards"},
    "controls": {"noise_floor": False},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size=4", {"batch_size": 4}),
        ("name=a=b", {"name": "a=b"}),
        ("name='4'", {"name": "4"}),
        ("name=2024-05-01", {"name": "2024-05-01"}),
        ("name=no", {"name": "no"}),
        ("name=", {"name": None}),
        ("seeds.1=7", {"seeds": [0, 7]}),
        ("seeds=[3, 4]", {"seeds": [3, 4]}),
        ("tracking.uri=null", {"tracking": {"uri": None}}),
        ("controls.noise_floor.repeats=5", {"controls": {"noise_floor": {"repeats": 5}}}),
        ("models.0.path=x", {"models": [{"type": "toy", "path": "x"}]}),
        (
            "calibration.benchmark.limit=5",
            {"calibration": {"benchmark": {"type": "cards", "limit": 5}}},
        ),
        (
            "stacks.a.1.bits=8",
            {"stacks": {**DATA["stacks"], "a": ["prune", {"type": "quant", "bits": 8}]}},
        ),
        (
            "stacks.a.5.0.layer=2",
            {"stacks": {**DATA["stacks"], "a.5": [{"type": "prune", "layer": 2}]}},
        ),
        (
            "stacks.b=[quant, {type: prune}]",
            {"stacks": {**DATA["stacks"], "b": ["quant", {"type": "prune"}]}},
        ),
        (
            "perturbations.0.1.rate=1",
            {"perturbations": [["noise", {"type": "swap", "rate": 1}], "noise"]},
        ),
    ],
)
def test_override(text: str, expected: dict[str, Any]) -> None:
    before = repr(DATA)
    assert override(DATA, text)[0] == {**DATA, **expected}
    assert repr(DATA) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size", "expected KEY=VALUE, for example batch_size=4 or seeds.0=1"),
        ("=4", "expected KEY=VALUE, for example batch_size=4 or seeds.0=1"),
        ("a..b=4", "expected KEY=VALUE, for example batch_size=4 or seeds.0=1"),
        ("seeds.2=4", "seeds is a list: '2' is not one of its indices (0 to 1)"),
        ("seeds.-1=4", "seeds is a list: '-1' is not one of its indices (0 to 1)"),
        ("stacks.a.x=4", "stacks.a is a list: 'x' is not one of its indices (0 to 1)"),
        ("empty.0=4", "empty is a list: '0' is not one of its indices (none, for it is empty)"),
        ("name.first=4", "name is 'demo', which has no 'first' in it"),
        ("seeds.0.x=4", "seeds[0] is 0, which has no 'x' in it"),
        (
            "seeds=[1",
            "the value is not YAML: while parsing a flow sequence expected ',' or ']', "
            "but got '<stream end>'",
        ),
        ("name=\x01", "the value is not YAML: "),
        ("stacks={4: [quant]}", 'the key 4 is not text: write "4"'),
    ],
)
def test_errors(text: str, expected: str) -> None:
    with pytest.raises(OverrideError) as caught:
        override(DATA, text)
    assert str(caught.value).startswith(expected)
