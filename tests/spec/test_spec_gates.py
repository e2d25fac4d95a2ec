from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_plugins import Site, importable, registry_of
from stabfw.errors import SpecError
from stabfw.registry import Registry
from stabfw.spec import load_spec, parse_spec, to_yaml

HEAD = """\
stabfw: 1
name: demo
models: [toy, {type: toy, name: other}]
stacks: {fast: [quant]}
benchmarks: [cards, {type: cards, name: more}]
gates:
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.demo()
    with importable(site):
        yield registry_of(site)


@pytest.fixture
def load(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def loaded(gates: str, head: str = HEAD):
        Path("spec.yaml").write_text(head + gates)
        return load_spec("spec.yaml", registry)

    return loaded


def test_a_gate_has_defaults(load) -> None:
    (gate,) = load("  - {metric: correct_loss_rate, at_most: 0.02}").gates
    assert (gate.limit, gate.at_least, gate.confidence) == (0.02, None, 0.95)
    assert all(value is None for value in gate.where.model_dump().values())


def test_names_are_taken_one_by_one_or_listed(load, registry: Registry) -> None:
    spec = load(
        "  - {metric: accuracy_delta, at_least: -0.01, confidence: 0.9, where: {model: other, "
        "benchmark: [more, cards], perturbation: clean, stack: fast, gold: yes}}"
    )
    (gate,) = spec.gates
    assert gate.limit == -0.01
    assert gate.where.model == ("other",)
    assert gate.where.benchmark == ("more", "cards")
    assert gate.where.gold == "yes"
    again = parse_spec(spec.dump(), registry)
    assert again == spec
    assert again.hash() == spec.hash()
    Path("again.yaml").write_text(to_yaml(spec))
    assert load_spec("again.yaml", registry) == spec


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (
            "  - {metric: accuracy_base, at_most: 0.1}",
            "7:14: gates[0].metric: must be 'correct_loss_rate', 'negative_flip_rate', ",
        ),
        (
            "  - {metric: accuracy_delta, at_most: 0.1}",
            "7:5: gates[0]: accuracy_delta needs a limit `at_least: -0.01` and no `at_most`",
        ),
        (
            "  - {metric: divergence_ratio, at_least: -0.1}",
            "7:5: gates[0]: divergence_ratio needs a limit `at_most: 0.02` and no `at_least`",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, at_least: -0.1}",
            "7:5: gates[0]: divergence_ratio needs a limit `at_most: 0.02` and no `at_least`",
        ),
        (
            "  - {metric: divergence_ratio}",
            "7:5: gates[0]: divergence_ratio needs a limit `at_most: 0.02`",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 2}",
            "7:41: gates[0].at_most: must be less than 1 (got 2)",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, confidence: 0.5}",
            "gates[0].confidence: must be greater than 0.5 (got 0.5)",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, where: {stak: fast}}",
            "7:54: gates[0].where.stak: unknown field; did you mean 'stack'?",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, where: {stack: fats}}",
            "7:61: gates[0].where.stack: there is no stack 'fats' in this spec; did you mean "
            "'fast'?; controls are never gated",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, where: {perturbation: [clean, typos]}}",
            "gates[0].where.perturbation: there is no perturbation 'typos' in this spec (there: ",
        ),
        (
            "  - {metric: divergence_ratio, at_most: 0.1, where: {model: []}}",
            "gates[0].where.model: must have at least 1 item",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(load, gates: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(gates)
    assert message in str(caught.value)


def test_a_gate_beyond_the_noise_floor_needs_one(load) -> None:
    head = HEAD.replace("gates:", "controls: {noise_floor: null}\ngates:")
    with pytest.raises(SpecError, match=r"gates\[0\].metric: excess_divergence needs `controls"):
        load("  - {metric: excess_divergence, at_most: 0.1}", head)


def test_a_gate_needs_something_to_judge(load) -> None:
    with pytest.raises(SpecError, match=r"gates\[0\]: there are no stacks to judge"):
        load("  - {metric: divergence_ratio, at_most: 0.1}", HEAD.replace("{fast: [quant]}", "{}"))
