"""No change that can alter an answer may hit the store; no other change may miss it."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from stabfw.experiment import run
from stabfw.plan import Plan, explain, make_plan
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec, parse_spec
from stabfw.store import Store, changed_fields
from stabfw.store.outcomes import Store as OutcomeStore

Make = Callable[..., ExperimentSpec]


@pytest.fixture
def base(tmp_path: Path, questions: Path) -> dict[str, Any]:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"trained once")
    return {
        "models": [{"type": "parrot", "weights": str(weights)}],
        "stacks": {
            "planted": [{"type": "planted", "answers": {"x": "y"}}],
            "fitted": ["fitted"],
        },
        "perturbations": ["suffix"],
        "seeds": [0],
        "calibration": {
            "benchmark": {"type": "questions", "path": str(questions)},
            "split": "train",
            "limit": 5,
        },
        "benchmarks": [{"type": "questions", "path": str(questions), "choices": True}],
        "controls": {"noise_floor": {"repeats": 2}, "baseline_likelihood": True},
        "batch_size": 8,
    }


def keys(spec: ExperimentSpec, registry: Registry) -> dict[str, str]:
    with Store(spec.store) as store:
        plan: Plan = make_plan(spec, registry, store)
        return {c.label.split(" · questions")[0]: key for c, key in plan.named.items()}


def _weights(base: dict[str, Any], questions: Path) -> None:
    path = Path(base["models"][0]["weights"])
    stat = path.stat()
    path.write_bytes(b"trained over")  # Same size; a restored time must not hide the change.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _dtype(base: dict[str, Any], questions: Path) -> None:
    base["models"][0]["dtype"] = "bfloat16"


def _accelerator(base: dict[str, Any], questions: Path) -> None:
    base["stacks"]["planted"][0]["answers"] = {"x": "z"}


def _artefact(base: dict[str, Any], questions: Path) -> None:
    base["calibration"]["limit"] = 6


def _prompt(base: dict[str, Any], questions: Path) -> None:
    rows = json.loads(questions.read_text())
    rows[0][0] += " please"
    questions.write_text(json.dumps(rows))


def _image(base: dict[str, Any], questions: Path) -> None:
    base["benchmarks"][0]["tint"] = 1


def _seed(base: dict[str, Any], questions: Path) -> None:
    base["seeds"] = [1]


def _batches(base: dict[str, Any], questions: Path) -> None:
    base["batch_size"] = 9


def _generation(base: dict[str, Any], questions: Path) -> None:
    base["generation"] = {"max_new_tokens": 5}


def _mode(base: dict[str, Any], questions: Path) -> None:
    base["generation"] = {"mode": "likelihood"}


def _perturbation(base: dict[str, Any], questions: Path) -> None:
    base["perturbations"] = [{"type": "suffix", "strength": 2}]


EVERY = {
    f"{stack}{repeat} · {perturbation}"
    for perturbation in ("clean", "suffix")
    for stack, repeat in (
        ("baseline", ""),
        ("baseline", " · repeat 1"),
        ("baseline", " · repeat 2"),
        ("planted", ""),
        ("planted", " · baseline's answers"),
        ("fitted", ""),
        ("fitted", " · baseline's answers"),
    )
}


@pytest.mark.parametrize(
    ("poison", "affected"),
    [
        (_weights, EVERY),
        (_dtype, EVERY),
        (_accelerator, {label for label in EVERY if label.startswith("planted")}),
        (_artefact, {label for label in EVERY if label.startswith("fitted")}),
        (_prompt, EVERY),
        (_image, EVERY),
        (_seed, {label for label in EVERY if label.endswith("suffix")}),
        (_batches, EVERY),
        (_generation, EVERY),
        (_mode, EVERY),
        (_perturbation, {label for label in EVERY if label.endswith("suffix")}),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else None,
)
def test_change_misses_exactly_the_cells_that_it_affects(
    make_spec: Make,
    registry: Registry,
    base: dict[str, Any],
    questions: Path,
    poison: Callable[[dict[str, Any], Path], None],
    affected: set[str],
) -> None:
    spec = make_spec(**base)
    run(spec, registry=registry)
    before = keys(spec, registry)
    assert before.keys() == EVERY
    poison(base, questions)
    changed = make_spec(**base)
    after = keys(changed, registry)
    renamed = {
        label.replace(" strength=2", "").replace(" · seed 1", ""): k for label, k in after.items()
    }
    assert {label for label in EVERY if renamed[label] != before[label]} == affected
    assert not {renamed[label] for label in affected} & set(before.values())
    assert run(changed, registry=registry).computed == len(affected)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"compare": "deployed"},
        {"tracking": {"uri": None, "images": "thumbnails"}},
        {"execution": {"executor": "process", "workers": 2}},
        {"controls": {"noise_floor": {"repeats": 1}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_change_of_how_it_is_run_or_shown_hits(
    make_spec: Make, registry: Registry, base: dict[str, Any], change: dict[str, Any]
) -> None:
    run(make_spec(**base), registry=registry)
    assert run(make_spec(**{**base, **change}), registry=registry).computed == 0


@pytest.mark.parametrize(
    "changed",
    [{"torch": "9.9"}, {"transformers": "9.9"}, {"hardware": "another chip"}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_software_or_hardware_misses(
    make_spec: Make,
    registry: Registry,
    base: dict[str, Any],
    changed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec(**base)
    before = keys(spec, registry)
    from stabfw.plan import cells

    original = cells.environment
    monkeypatch.setattr(cells, "environment", lambda device: {**original(device), **changed})
    assert not set(before.values()) & set(keys(spec, registry).values())


def test_behaviour_version_of_a_component_misses(
    make_spec: Make, registry: Registry, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabfw_test_plugins.accelerators import Planted

    spec = make_spec(**base)
    before = keys(spec, registry)
    monkeypatch.setattr(Planted, "behaviour_version", 2)
    after = keys(spec, registry)
    changed = {label for label in EVERY if label.startswith("planted")}
    assert {label for label in after if after[label] != before[label]} == changed


def test_other_options_miss(
    make_spec: Make,
    registry: Registry,
    base: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stabfw_test_plugins.questions import Questions

    before = keys(make_spec(**base), registry)
    original = Questions.options
    monkeypatch.setattr(Questions, "options", lambda self, instance: original(self, instance)[1:])
    # A store that has not seen the benchmark, since it keeps what a benchmark once held.
    after = keys(make_spec(**base, store=str(tmp_path / "other")), registry)
    assert not set(before.values()) & set(after.values())


def test_the_parent_is_in_the_key_of_what_scores_its_answers(
    make_spec: Make, registry: Registry, base: dict[str, Any]
) -> None:
    """A stack that is the same beside another baseline has other answers to score."""
    base["stacks"] = {"half": ["half"]}
    matched = keys(make_spec(**base), registry)
    deployed = keys(make_spec(**base, compare="deployed"), registry)
    assert matched["half · clean"] == deployed["half · clean"]
    scoring = "half · baseline's answers · clean"
    assert matched[scoring] != deployed[scoring]


def test_what_is_loaded_must_be_what_was_described(
    make_spec: Make, registry: Registry, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabfw_test_plugins.parrot import LoadedParrot

    original = LoadedParrot.__init__

    def other(self: Any, config: Any, info: Any, request: Any) -> None:
        original(self, config, info, replace(request, dtype="float16"))

    monkeypatch.setattr(LoadedParrot, "__init__", other)
    done = run(make_spec(**{**base, "stacks": {}}), registry=registry)
    assert "planned with dtype float32, but loaded with float16" in done.results.failures[0].reason
    assert not done.results.cells


def test_explain_names_the_field_that_missed(
    make_spec: Make, registry: Registry, base: dict[str, Any]
) -> None:
    run(make_spec(**base), registry=registry)
    spec = make_spec(**{**base, "generation": {"max_new_tokens": 5}})
    with OutcomeStore(spec.store) as store:
        plan = make_plan(spec, registry, store)
        lines = explain(plan.cells[0], list(store.cells()))
    assert lines == ["generation.max_new_tokens: 5, stored 16"]


def test_every_field_of_the_load_request_is_in_the_key(
    make_spec: Make, registry: Registry, base: dict[str, Any]
) -> None:
    spec = make_spec(**base)
    with Store(spec.store) as store:
        cell = make_plan(spec, registry, store).cells[0]
    request = make_plan_request(spec, registry)
    assert set(asdict(request)) - {"source", "revision"} == set(cell.fields["load"])
    assert changed_fields(cell.fields, cell.fields) == {}


def make_plan_request(spec: ExperimentSpec, registry: Registry) -> Any:
    with Store(spec.store) as store:
        return make_plan(spec, registry, store).sessions[0].request


def test_dump_of_a_spec_plans_the_same_cells(
    make_spec: Make, registry: Registry, base: dict[str, Any]
) -> None:
    spec = make_spec(**base)
    assert keys(parse_spec(spec.dump(), registry), registry) == keys(spec, registry)
