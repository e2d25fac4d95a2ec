from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site, importable, registry_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stabfw.components import Benchmark, BenchmarkConfig, Kind
from stabfw.errors import SpecError
from stabfw.metrics import ForesightRule
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec, components, label, load_spec, parse_spec, to_yaml

MINIMAL = {"stabfw": 1, "name": "demo", "models": ["toy"], "benchmarks": ["cards"]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.demo()
    site.module(
        "late",
        """
        from pydantic import Field
        from stabfw.components import Benchmark, BenchmarkConfig
        from stabfw.registry import hookimpl
        class LateConfig(BenchmarkConfig):
            limit: int = Field(600, ge=1, description="Not None.")
            weight: float = 1.0
        class Late(Benchmark):
            config_cls = LateConfig
            def instances(self, split): ...
            def extract(self, text, instance): ...
        @hookimpl
        def stabfw_register_benchmarks(register): register("late", Late)
        """,
    )
    site.distribution("late", {"stabfw.benchmarks": {"late": "late"}})
    with importable(site):
        yield registry_of(site)


def make(registry: Registry, **changes: Any) -> ExperimentSpec:
    return parse_spec({**MINIMAL, **changes}, registry)


def test_nothing_is_left_open(registry: Registry) -> None:
    assert make(registry).dump() == {
        "stabfw": 1,
        "name": "demo",
        "models": [{"type": "toy", "name": None, "path": "toy"}],
        "stacks": {},
        "benchmarks": [{"type": "cards", "name": None, "split": None, "limit": None}],
        "perturbations": [],
        "seeds": [0],
        "calibration": None,
        "controls": {
            "noise_floor": {"repeats": 3, "stacks": False},
            "equal_budget": False,
            "lossless": False,
            "baseline_likelihood": False,
        },
        "compare": "matched",
        "generation": {"mode": "generate", "max_new_tokens": 16, "top_tokens": 5},
        "batch_size": 8,
        "published": [],
        "gates": [],
        "foresight": {
            "metric": "divergence_ratio",
            "at_most": 0.02,
            "confidence": 0.95,
            "margin": "variant",
            "fit_share": 0.5,
            "seed": 0,
        },
        "judge": None,
        "metrics": [],
        "execution": {"executor": "inline", "workers": 1},
        "store": ".stabfw/store",
        "runs": "runs",
        "tracking": {"uri": "sqlite:///mlflow.db", "images": "none"},
    }


def test_published_accuracies_are_of_what_is_asked(registry: Registry) -> None:
    item = {"model": "toy", "benchmark": "cards", "accuracy": 0.6, "source": "a paper, table 1"}
    (kept,) = make(registry, published=[item]).published
    assert (kept.accuracy, kept.tolerance) == (0.6, 0.03)
    for field in ("model", "benchmark"):
        with pytest.raises(SpecError, match=f"there is no {field} 'other' in this spec"):
            make(registry, published=[{**item, field: "other"}])
    with pytest.raises(SpecError, match="source"):
        make(registry, published=[{**item, "source": ""}])


def test_bare_names_and_types(registry: Registry) -> None:
    spec = make(
        registry,
        stacks={"both": ["quant", {"type": "prune", "layer": 1}]},
        perturbations=["noise", ["noise", {"type": "swap"}]],
        metrics=["flips"],
        calibration={"benchmark": "cards"},
    )
    assert [config.type for config in spec.stacks["both"]] == ["quant", "prune"]
    assert [[config.type for config in item] for item in spec.perturbations] == [
        ["noise"],
        ["noise", "swap"],
    ]
    assert spec.metrics[0].type == "flips"
    assert spec.calibration is not None
    assert (spec.calibration.benchmark.type, spec.calibration.split) == ("cards", "train")


def test_stacks_keep_their_order_which_does_not_matter_to_the_hash(registry: Registry) -> None:
    one = make(registry, stacks={"b": ["quant"], "a": ["prune"]})
    two = make(registry, stacks={"a": ["prune"], "b": ["quant"]})
    assert list(one.stacks) == list(one.dump()["stacks"]) == ["b", "a"]
    assert one.hash() == two.hash()


def test_every_change_changes_the_hash(registry: Registry) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"name": "other"},
        {"models": [{"type": "toy", "path": "x"}]},
        {"stacks": {"a": ["quant"]}},
        {"stacks": {"b": ["quant"]}},
        {"stacks": {"a": [{"type": "quant", "bits": 8}]}},
        {"stacks": {"a": ["quant", "prune"]}},
        {"stacks": {"a": ["prune", "quant"]}},
        {"perturbations": ["noise", "swap"]},
        {"perturbations": [["noise", "swap"]]},
        {"seeds": [1]},
        {"controls": {"noise_floor": None}},
        {"foresight": None},
        {"foresight": {"at_most": 0.05}},
        {"tracking": {"uri": None}},
    ]
    assert len({make(registry, **change).hash() for change in changes}) == len(changes)
    assert make(registry).hash() == make(registry, seeds=[0], batch_size=8).hash()


@pytest.mark.parametrize("value", [None, False, "no", "off"])
def test_noise_floor_can_be_switched_off(registry: Registry, value: object) -> None:
    assert make(registry, controls={"noise_floor": value}).controls.noise_floor is None


@pytest.mark.parametrize("value", [None, False, "no", "off"])
def test_foresight_can_be_switched_off_and_is_like_the_metric_by_itself(
    registry: Registry, value: object
) -> None:
    assert make(registry, foresight=value).foresight is None
    asked = make(registry, foresight=True).foresight
    assert asked == make(registry).foresight
    assert asked is not None
    assert ForesightRule(**asked.model_dump()) == ForesightRule()


@pytest.mark.parametrize(
    ("foresight", "message"),
    [
        ({"at_most": 0}, "foresight.at_most: must be greater than 0"),
        ({"confidence": 0.5}, "foresight.confidence: must be greater than 0.5"),
        ({"fit_share": 1}, "foresight.fit_share: must be less than 1"),
        ({"margin": "both"}, "foresight.margin: must be 'variant' or 'baseline'"),
        ({"metric": "accuracy_delta"}, "foresight.metric: must be 'divergence_ratio'"),
        ({"atmost": 0.1}, "foresight.atmost: unknown field; did you mean 'at_most'?"),
    ],
)
def test_a_foresight_that_means_nothing_is_refused(
    registry: Registry, foresight: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        make(registry, foresight=foresight)


def test_noise_floor_can_be_switched_on(registry: Registry) -> None:
    floor = make(registry, controls={"noise_floor": True}).controls.noise_floor
    assert floor is not None
    assert (floor.repeats, floor.stacks) == (3, False)
    floor = make(registry, controls={"noise_floor": {"stacks": True}}).controls.noise_floor
    assert floor is not None
    assert (floor.repeats, floor.stacks) == (3, True)


def test_defaults_of_a_plugin_win_over_those_of_its_kind(registry: Registry) -> None:
    (config,) = make(registry, benchmarks=["late"]).benchmarks
    assert config.model_dump() == {
        "type": "late",
        "name": None,
        "split": None,
        "limit": 600,
        "weight": 1.0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(registry: Registry, value: float) -> None:
    with pytest.raises(SpecError, match=r"benchmarks\[0\]\.weight: must be a finite number"):
        make(registry, benchmarks=[{"type": "late", "weight": value}])


def test_frozen(registry: Registry) -> None:
    spec = make(registry, stacks={"a": ["quant"]})
    for target, name in [
        (spec, "name"),
        (spec.controls, "lossless"),
        (spec.stacks["a"][0], "bits"),
    ]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, name, 1)


def test_equal_specs_are_equal_and_survive_pickling(registry: Registry) -> None:
    spec = make(registry, stacks={"a": [{"type": "quant", "bits": 2}]})
    assert spec == make(registry, stacks={"a": [{"type": "quant", "bits": 2}]})
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert copy.hash() == spec.hash()


def test_components_are_built_from_configs(registry: Registry) -> None:
    (config,) = make(registry, benchmarks=[{"type": "cards", "limit": 3}]).benchmarks
    benchmark = components(registry, Kind.BENCHMARK, config)
    assert isinstance(benchmark, Benchmark)
    assert isinstance(benchmark.config, BenchmarkConfig)
    assert benchmark.config.limit == 3


def test_labels(registry: Registry) -> None:
    spec = make(
        registry,
        models=["toy", {"type": "toy", "name": "big", "path": "x"}],
        benchmarks=["cards", {"type": "cards", "limit": 600}],
        perturbations=[
            {"type": "noise", "severity": 3},
            {"type": "noise", "severity": 4},
            [{"type": "noise", "severity": 1}, {"type": "swap", "words": ["a", "b"]}],
        ],
        stacks={"a": [{"type": "quant", "bits": 8, "mode": "fast"}]},
    )
    assert [label(model) for model in spec.models] == ["toy", "big"]
    assert [label(benchmark) for benchmark in spec.benchmarks] == ["cards", "cards limit=600"]
    assert [label(item) for item in spec.perturbations] == [
        "noise",
        "noise severity=4",
        'noise severity=1 + swap words=["a","b"]',
    ]
    assert label(spec.stacks["a"]) == "quant bits=8 mode=fast"


def test_yaml_is_in_the_order_of_the_spec(registry: Registry) -> None:
    text = to_yaml(make(registry, stacks={"b": [{"type": "quant", "bits": 2}], "a": ["prune"]}))
    assert text.startswith("stabfw: 1\nname: demo\nmodels:\n- type: toy\n")
    assert "stacks:\n  b:\n  - type: quant\n    bits: 2\n    mode: good\n  a:\n" in text


def test_plain_configs_need_a_registry() -> None:
    with pytest.raises(ValidationError, match=r"stabfw\.spec\.parse_spec"):
        ExperimentSpec(stabfw=1, name="x", models=["toy"], benchmarks=["cards"])  # type: ignore[list-item]


def test_text_that_looks_like_something_else_stays_text(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "stabfw: 1\nname: no\nmodels: [{type: toy, name: 2024-05-01, path: 'null'}]\n"
        "benchmarks: [cards]\nstacks:\n  2024-05-01: [quant]\n  on: [prune]\n"
    )
    spec = load_spec(path, registry)
    assert (spec.name, label(spec.models[0]), list(spec.stacks)) == (
        "no",
        "2024-05-01",
        ["2024-05-01", "on"],
    )
    assert spec.dump()["models"][0]["path"] == "null"


def test_escaped_characters_of_json_files(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**MINIMAL, "models": [{"type": "toy", "path": "😀"}]}))
    assert "\\ud83d" in path.read_text()
    assert load_spec(path, registry).dump()["models"][0]["path"] == "😀"
    path.write_text(path.read_text().replace("\\ude00", ""))
    with pytest.raises(SpecError, match=r"spec\.json:1:\d+: half of a character"):
        load_spec(path, registry)


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.+-]{0,8}\Z")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)
ACCELERATORS = st.one_of(
    st.just("quant"),
    st.fixed_dictionaries(
        {"type": st.just("quant")},
        optional={"bits": st.integers(1, 8), "mode": st.sampled_from(["fast", "good"])},
    ),
    st.fixed_dictionaries(
        {"type": st.just("prune")},
        optional={"layer": st.integers(0, 99), "keep": st.floats(0, 1, exclude_min=True)},
    ),
)
PERTURBATIONS = st.one_of(
    st.just("noise"),
    st.fixed_dictionaries({"type": st.just("noise")}, optional={"severity": st.integers(0, 9)}),
    st.fixed_dictionaries({"type": st.just("swap"), "words": st.lists(TEXT, max_size=2)}),
)
SPECS = st.fixed_dictionaries(
    {
        "stabfw": st.just(1),
        "name": NAMES,
        "models": st.lists(
            st.fixed_dictionaries(
                {"type": st.just("toy"), "name": TEXT.filter(bool), "path": TEXT}
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda model: model["name"],
        ),
        "benchmarks": st.lists(
            st.fixed_dictionaries({"type": st.just("cards"), "limit": st.integers(1, 10**6)}),
            min_size=1,
            max_size=2,
            unique_by=lambda benchmark: benchmark["limit"],
        ),
    },
    optional={
        "stacks": st.dictionaries(
            NAMES.filter(lambda name: name != "baseline"),
            st.lists(ACCELERATORS, min_size=1, max_size=3),
            max_size=3,
        ),
        "perturbations": st.lists(
            st.one_of(PERTURBATIONS, st.lists(PERTURBATIONS, min_size=1, max_size=2)), max_size=1
        ),
        "seeds": st.lists(st.integers(0, 2**63), min_size=1, max_size=3, unique=True),
        "controls": st.fixed_dictionaries(
            {},
            optional={
                "noise_floor": st.sampled_from([None, False, {"repeats": 5, "stacks": True}])
            },
        ),
        "store": TEXT,
        "tracking": st.fixed_dictionaries({}, optional={"uri": st.none() | TEXT}),
    },
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=SPECS)
def test_a_dumped_spec_loads_as_the_same_spec(
    registry: Registry, tmp_path: Path, values: dict[str, Any]
) -> None:
    spec = parse_spec(values, registry)
    path = tmp_path / "dumped"

    path.write_text(json.dumps(spec.dump()))
    from_json = load_spec(path, registry)
    path.write_text(to_yaml(spec), encoding="utf-8")
    from_yaml = load_spec(path, registry)

    assert from_json == from_yaml == spec
    assert from_json.hash() == from_yaml.hash() == spec.hash()
    assert json.dumps(from_yaml.dump()) == json.dumps(spec.dump())


def test_the_hash_is_the_same_in_another_process(registry: Registry, tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.demo()
    code = (
        "import json, sys; from stabfw import Registry, parse_spec; "
        "print(parse_spec(json.loads(sys.argv[1]), Registry()).hash())"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    done = subprocess.run(
        [*command, json.dumps(MINIMAL)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == make(registry).hash()
