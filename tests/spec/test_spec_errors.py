from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from fake_plugins import Site, importable, registry_of
from stabfw.errors import Exit, PluginLoadError, SpecError
from stabfw.registry import Registry
from stabfw.spec import load_spec, parse_spec

HEAD = "stabfw: 1\nname: demo\n"
REST = "models: [toy]\nbenchmarks: [cards]\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.demo()
    site.module("broken", "import not_there_at_all")
    site.distribution("broken-dist", {"stabfw.accelerators": {"broken": "broken"}}, "0.2")
    with importable(site):
        yield registry_of(site)


@pytest.fixture
def fails(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SpecError]:
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes, *overrides: str) -> SpecError:
        data = text if isinstance(text, bytes) else dedent(text).encode()
        Path("spec.yaml").write_bytes(data)
        with pytest.raises(SpecError) as caught:
            load_spec("spec.yaml", registry, overrides)
        return caught.value

    return load


def test_unknown_field_with_position_line_and_caret(fails: Callable[..., SpecError]) -> None:
    error = fails(HEAD + REST + "stacks:\n  fast: [{type: quant, bist: 4}]\n")
    assert str(error) == (
        "spec.yaml:6:24: stacks.fast[0].bist: unknown field; did you mean 'bits'?\n"
        "      fast: [{type: quant, bist: 4}]\n"
        "                           ^"
    )
    assert error.exit_code is Exit.USAGE


@pytest.mark.parametrize(
    ("text", "first_line"),
    [
        # Values
        (
            HEAD + REST + "batch_size: 0",
            "5:13: batch_size: must be greater than or equal to 1 (got 0)",
        ),
        (HEAD + REST + "seeds: [0, true]", "5:12: seeds[1]: must be a valid integer (got true)"),
        (
            HEAD + REST + "compare: both",
            "5:10: compare: must be 'matched' or 'deployed' (got \"both\")",
        ),
        (
            HEAD + REST + "controls:\n  noise_floor:\n    repeats: 0",
            "7:14: controls.noise_floor.repeats: must be greater than or equal to 1 (got 0)",
        ),
        (HEAD + REST + "generation: 5", "5:13: generation: must be a mapping (got 5)"),
        (HEAD + REST + "seeds: {a: 1}", "5:8: seeds: must be a list (got a mapping)"),
        ("stabfw: 2\nname: x\n" + REST, "1:9: stabfw: must be 1 (got 2)"),
        ("stabfw: 1\nname: 5\n" + REST, "2:7: name: must be text: put it in quotes (got 5)"),
        (
            "stabfw: 1\nname: a b\n" + REST,
            '2:7: name: must match ^[A-Za-z0-9][A-Za-z0-9_.+-]*$ (got "a b")',
        ),
        ("stabfw: 1\n" + REST, "1:1: name: is missing"),
        # Lists of components
        (
            HEAD + "models: []\nbenchmarks: [cards]",
            "3:9: models: must have at least 1 item",
        ),
        (HEAD + "models: toy\nbenchmarks: [cards]", '3:9: models: must be a list (got "toy")'),
        (
            HEAD + "benchmarks: [cards]\nmodels:\n- toy\n- path: x\n",
            "6:3: models[1]: say which model with `type: NAME` (installed: toy)",
        ),
        (
            HEAD + "models: [toy, 5]\nbenchmarks: [cards]",
            "3:15: models[1]: must be the model's name or a mapping with its `type`",
        ),
        (
            HEAD + "models: [{type: [toy]}]\nbenchmarks: [cards]",
            "3:17: models[0].type: say which model with `type: NAME` (installed: toy)",
        ),
        (
            HEAD + "models: [tiy]\nbenchmarks: [cards]",
            "3:10: models[0]: unknown model 'tiy'; did you mean 'toy'? (installed: toy). "
            "Check the spelling, or install the distribution that provides it",
        ),
        (
            HEAD + "benchmarks: [cards]\nmodels:\n  - path: x\n    type: cards\n",
            "6:11: models[0].type: unknown model 'cards'; there is one of that name among the "
            "benchmarks (installed: toy). "
            "Check the spelling, or install the distribution that provides it",
        ),
        # Names
        (
            HEAD + "models: [toy, {type: toy, path: x}]\nbenchmarks: [cards]",
            "3:15: models[1]: a second model 'toy': give it another `name`",
        ),
        (
            HEAD + "models: [toy]\nbenchmarks:\n- cards\n- type: cards",
            "6:3: benchmarks[1]: a second entry 'cards': leave one out",
        ),
        (
            HEAD + REST + "perturbations: [noise, [{type: noise, severity: 3}]]",
            "5:24: perturbations[1]: a second entry 'noise': leave one out",
        ),
        (HEAD + REST + "seeds: [1, 2, 1]", "5:15: seeds[2]: a second seed '1': leave one out"),
        (
            HEAD + REST + "stacks:\n  baseline: [quant]",
            "6:3: stacks.baseline: 'baseline' is the model without accelerators: "
            "choose another name",
        ),
        (
            HEAD + REST + "stacks:\n  a/b: [quant]",
            '6:3: stacks.a/b: must match ^[A-Za-z0-9][A-Za-z0-9_.+-]*$ (got "a/b")',
        ),
        (HEAD + REST + "stacks:\n  4: [quant]", '6:3: the key 4 is not text: write "4"'),
        (HEAD + REST + "stacks:\n  a: []", "6:6: stacks.a: must have at least 1 item"),
        (
            HEAD + REST + "perturbations: [noise, clean]",
            "5:24: perturbations[1]: 'clean' is always included: leave it out",
        ),
        (
            HEAD + REST + "perturbations:\n  - [noise, {type: swap, words: 3}]",
            "6:33: perturbations[0][1].words: must be a list (got 3)",
        ),
        (
            HEAD + REST + "perturbations:\n  - {type: noise, severity: -1}",
            "6:29: perturbations[0].severity: must be greater than or equal to 0 (got -1)",
        ),
        (HEAD + REST + "perturbations: [[]]", "5:17: perturbations[0]: must have at least 1 item"),
        # YAML
        (
            HEAD + REST + "name: again",
            "5:1: the key 'name' is there twice: leave one out",
        ),
        (
            HEAD + "models: [toy\nbenchmarks: [cards]",
            "4:11: while parsing a flow sequence expected ',' or ']', but got ':'",
        ),
        (
            HEAD + "models: *toy\nbenchmarks: [cards]",
            "3:9: found undefined alias 'toy'",
        ),
        (
            HEAD + "models: &a [*a]\nbenchmarks: [cards]",
            "3:9: an alias refers to the value that contains it",
        ),
        (
            HEAD + "models: !run [toy]",
            "3:9: could not determine a constructor for the tag '!run'",
        ),
        (
            HEAD + "name: 'a\x01'",
            r"3:9: the character '\x01' is not allowed in YAML",
        ),
        (
            "stabfw: 1\n---\nname: x\n",
            "2:1: expected a single document in the stream but found another document",
        ),
        (
            "",
            "1:1: the spec is empty. See a valid one with: stabfw init example.yaml",
        ),
        (
            "# nothing\n\n- toy\n",
            "3:1: the spec must be a mapping (`key: value` lines). "
            "See a valid one with: stabfw init example.yaml",
        ),
        (b"stabfw: 1\nname: \xff", "2:7: the byte 0xff is not UTF-8: save the file as UTF-8"),
    ],
)
def test_position_and_message(
    fails: Callable[..., SpecError], text: str | bytes, first_line: str
) -> None:
    message = str(fails(text)).splitlines()
    assert message[0].startswith(f"spec.yaml:{first_line}")
    if len(message) > 1:
        line, column = map(int, message[0].split(":")[1:3])
        assert isinstance(text, str)
        shown = text.splitlines()[line - 1]
        assert message[1:] == [f"    {shown}", "    " + " " * (column - 1) + "^"]


def test_all_problems_at_once_in_the_order_of_the_file(fails: Callable[..., SpecError]) -> None:
    error = fails(
        """\
        stabfw: 1
        nmae: demo
        models: [toy, tiy]
        stacks:
          a: [quant, {type: broken}, {type: quant, bits: 9}]
          a: [quant]
          4: [quant]
        benchmarks: [cards]
        tracking: {images: small}
        """,
        "batch_size=many",
        "seeds.3=1",
        "stacks.b.c=3",
    )
    heads = [line for line in str(error).splitlines() if line[0] not in " "]
    assert heads == [
        "11 problems:",
        "--set stacks.b.c=3: stacks.b: must be a list (got a mapping)",
        "--set seeds.3=1: seeds: must be a list (got a mapping)",
        '--set batch_size=many: batch_size: must be a valid integer (got "many")',
        "spec.yaml:1:1: name: is missing",
        "spec.yaml:2:1: nmae: unknown field; did you mean 'name'?",
        "spec.yaml:3:15: models[1]: unknown model 'tiy'; did you mean 'toy'? (installed: toy). "
        "Check the spelling, or install the distribution that provides it",
        "spec.yaml:5:21: stacks.a[1].type: accelerator plugin 'broken' (broken-dist 0.2, broken) "
        "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'. "
        "To go on, install the package that provides 'not_there_at_all'",
        "spec.yaml:5:50: stacks.a[2].bits: must be less than or equal to 8 (got 9)",
        "spec.yaml:6:3: the key 'a' is there twice: leave one out",
        'spec.yaml:7:3: the key 4 is not text: write "4"',
        "spec.yaml:9:20: tracking.images: must be 'none', 'thumbnails' or 'full' (got \"small\")",
    ]
    assert error.exit_code is Exit.USAGE


def test_a_broken_plugin_alone_has_its_own_exit_code(fails: Callable[..., SpecError]) -> None:
    error = fails(HEAD + REST + "stacks: {a: [broken]}")
    assert str(error).startswith("spec.yaml:5:14: stacks.a[0]: accelerator plugin 'broken'")
    assert error.exit_code is Exit.PLUGIN
    assert isinstance(error.__cause__, PluginLoadError)


def test_missing_file_and_directory(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.yaml: no such file\. Write one .*: stabfw init"):
        load_spec(tmp_path / "no.yaml", registry)
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path, registry)


def test_caret_below_tabs_and_windows_line_ends(fails: Callable[..., SpecError]) -> None:
    error = fails((HEAD + REST + "seeds: [\t-1]").replace("\n", "\r\n"))
    assert str(error).splitlines()[1:] == ["    seeds: [\t-1]", "            \t^"]


def test_alias_and_merge_keep_positions(fails: Callable[..., SpecError]) -> None:
    error = fails(
        HEAD
        + "models: [toy]\nbenchmarks: [&c {type: cards, limit: 5}]\n"
        + "calibration:\n  benchmark:\n    <<: *c\n    limit: 0\n"
    )
    assert str(error).startswith("spec.yaml:8:12: calibration.benchmark.limit: must be greater")


def test_errors_of_python_callers_name_the_path(registry: Registry) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(
            {
                "stabfw": 1,
                "name": "demo",
                "models": ["toy"],
                "benchmarks": ["cards"],
                "stacks": {"a": [{"type": "quant", "bits": 0}], 4: ["quant"]},
            },
            registry,
        )
    assert str(caught.value).splitlines() == [
        "2 problems:",
        "stacks.a[0].bits: must be greater than or equal to 1 (got 0)",
        "stacks[4]: must be text: put it in quotes (got 4)",
    ]
    with pytest.raises(SpecError, match="must be a mapping"):
        parse_spec([], registry)  # type: ignore[arg-type]
