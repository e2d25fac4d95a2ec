from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_plugins import Site, importable, registry_of
from stabfw.components import Kind
from stabfw.errors import (
    Exit,
    PluginConflictError,
    PluginLoadError,
    UnknownPluginError,
)
from stabfw.registry import Registry

GOOD = """
from stabfw.components import Accelerator, AcceleratorConfig
from stabfw.registry import hookimpl

class Mine(Accelerator[AcceleratorConfig]):
    config_cls = AcceleratorConfig

@hookimpl
def stabfw_register_accelerators(register):
    register("mine", Mine)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    with importable(site):
        yield site


@pytest.fixture
def message(site: Site) -> Callable[..., str]:
    """Install a plugin `mine` with this source; the message with which it fails to load."""

    def fails(source: str, **distribution: object) -> str:
        site.module("my_plugin", source)
        site.distribution(
            "my-dist", {"stabfw.accelerators": {"mine": "my_plugin"}}, "3.1", **distribution
        )
        registry = registry_of(site)
        with pytest.raises(PluginLoadError) as caught:
            registry.load(Kind.ACCELERATOR, "mine")
        text = str(caught.value)
        with pytest.raises(PluginLoadError, match=re.escape(text)):
            registry.load(Kind.ACCELERATOR, "mine")
        assert caught.value.exit_code is Exit.PLUGIN
        assert text.startswith("accelerator plugin 'mine' (my-dist 3.1, my_plugin) ")
        return text.removeprefix("accelerator plugin 'mine' (my-dist 3.1, my_plugin) ")

    return fails


def test_loads_by_name_what_an_entry_point_names(site: Site) -> None:
    site.demo()
    registry = registry_of(site)
    for kind, name in [
        (Kind.MODEL, "toy"),
        (Kind.ACCELERATOR, "quant"),
        (Kind.BENCHMARK, "cards"),
        (Kind.PERTURBATION, "swap"),
        (Kind.METRIC, "flips"),
    ]:
        assert registry.load(kind, name).__name__.lower() == name
    assert registry.load(Kind.MODEL, "toy") is registry.load(Kind.MODEL, "toy")


def test_lists_plugins_by_kind_and_name_without_importing_them(site: Site) -> None:
    site.demo()
    site.distribution("watcher", {"stabfw": {"watch": "watch_module"}}, "2.0")
    found = registry_of(site).plugins()
    assert [(p.kind, p.name) for p in found][:3] == [
        (Kind.MODEL, "toy"),
        (Kind.ACCELERATOR, "prune"),
        (Kind.ACCELERATOR, "quant"),
    ]
    assert str(found[-1]) == "observer 'watch' (watcher 2.0, watch_module)"
    assert registry_of(site).names(Kind.PERTURBATION) == ["noise", "swap"]
    assert "demo_plugins" not in sys.modules


def test_a_plugin_that_is_not_named_is_never_imported(site: Site) -> None:
    site.demo()
    site.module("bomb", "raise RuntimeError('imported')")
    site.distribution("bomb", {"stabfw.accelerators": {"bomb": "bomb"}})
    registry_of(site).load(Kind.ACCELERATOR, "quant")
    assert "bomb" not in sys.modules


def test_finds_what_is_installed_in_this_environment(site: Site) -> None:
    site.demo()
    assert Registry().find(Kind.ACCELERATOR, "quant").distribution == "demo-plugins"


def test_unknown_name(site: Site) -> None:
    site.demo()
    with pytest.raises(UnknownPluginError) as caught:
        registry_of(site).load(Kind.ACCELERATOR, "quantt")
    assert str(caught.value) == (
        "unknown accelerator 'quantt'; did you mean 'quant'? (installed: prune, quant). "
        "Check the spelling, or install the distribution that provides it"
    )
    assert caught.value.exit_code is Exit.USAGE


def test_unknown_name_that_another_kind_has(site: Site) -> None:
    site.demo()
    with pytest.raises(UnknownPluginError, match="there is one of that name among the benchmarks"):
        registry_of(site).load(Kind.ACCELERATOR, "cards")
    with pytest.raises(UnknownPluginError, match=r"unknown metric 'x' \(installed: none\)"):
        registry_of().load(Kind.METRIC, "x")


def test_missing_optional_dependency_names_the_extra(message: Callable[..., str]) -> None:
    text = message("import not_there_at_all", extras={"mine": "whatever", "hf": "torch"})
    assert text == (
        "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'. "
        'To go on, install what it needs: pip install "my-dist[mine]"'
    )


def test_missing_dependency_of_another_extra(message: Callable[..., str]) -> None:
    text = message("import not_there.at_all", extras={"b": "other", "a": "Not_There>=2"})
    assert text.endswith('pip install "my-dist[a]"')


def test_missing_dependency_without_extra(message: Callable[..., str]) -> None:
    text = message("import not_there_at_all")
    assert text.endswith("To go on, install the package that provides 'not_there_at_all'")


def test_entry_point_to_a_module_that_is_not_there(site: Site) -> None:
    site.distribution("gone", {"stabfw.accelerators": {"gone": "gone_module"}})
    with pytest.raises(PluginLoadError, match="names a module that is not there: reinstall gone"):
        registry_of(site).load(Kind.ACCELERATOR, "gone")


@pytest.mark.parametrize("code", ["raise ValueError('boom')", "raise SystemExit('boom')"])
def test_exception_on_import_is_chained(site: Site, code: str) -> None:
    site.module("broken", code)
    site.distribution("broken-dist", {"stabfw.metrics": {"broken": "broken"}})
    with pytest.raises(PluginLoadError) as caught:
        registry_of(site).load(Kind.METRIC, "broken")
    assert str(caught.value) == (
        "metric plugin 'broken' (broken-dist 1.0, broken) cannot be imported: "
        f"{type(caught.value.__cause__).__name__}: boom. "
        "To go on, report it to the authors of broken-dist, or uninstall it"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("config_cls = AcceleratorConfig", "config_cls = AcceleratorConfig; api_version = 9"),
            "was written for plugin API 9, but this stabfw supports 1: upgrade stabfw",
        ),
        (
            ("config_cls = AcceleratorConfig", "config_cls = AcceleratorConfig; api_version = 0"),
            "was written for plugin API 0, but this stabfw supports 1: upgrade the plugin",
        ),
        (
            ("stabfw_register_accelerators", "stabfw_register_accelerator"),
            "registers nothing: it defines 'stabfw_register_accelerator', which is not a hook; "
            "did you mean 'stabfw_register_accelerators'?",
        ),
        (
            ("accelerators(register)", "accelerators(registry)"),
            "has a hook that does not fit its specification",
        ),
        (
            ("@hookimpl", ""),
            "registers nothing: mark stabfw_register_accelerators with @stabfw.hookimpl",
        ),
        (
            ('register("mine", Mine)', "pass"),
            "registers nothing: define stabfw_register_accelerators(register) and let it call "
            "register('mine', ...)",
        ),
        (
            ('register("mine"', 'register("yours"'),
            "registers 'yours' instead of 'mine': use the name of the entry point",
        ),
        (
            ('register("mine", Mine)', 'register("mine", 1); register("mine", 2)'),
            "fails in stabfw_register_accelerators: ValueError: 'mine' is registered twice",
        ),
        (
            ('register("mine", Mine)', "1 / 0"),
            "fails in stabfw_register_accelerators: ZeroDivisionError: division by zero",
        ),
        (
            ('register("mine", Mine)', 'register("mine", dict)'),
            "registers <class 'dict'>, which is not a subclass of stabfw.components.Accelerator",
        ),
        (
            ("config_cls = AcceleratorConfig", "config_cls = dict"),
            "has no valid config: set Mine.config_cls to a subclass of "
            "stabfw.components.AcceleratorConfig (it is <class 'dict'>)",
        ),
        (
            ("config_cls = AcceleratorConfig", "pass"),
            "has no valid config: set Mine.config_cls to a subclass of "
            "stabfw.components.AcceleratorConfig (it is None)",
        ),
        (
            (
                "config_cls = AcceleratorConfig",
                "class C(AcceleratorConfig):\n        type: str = ''\n    config_cls = C",
            ),
            "has a config field 'type', which selects the plugin in a spec: rename it in Mine",
        ),
    ],
)
def test_breach_of_contract(
    message: Callable[..., str], change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    assert message(GOOD.replace(*change)).startswith(expected)


def test_wrong_signature_says_which_argument_and_how_to_declare_it(
    message: Callable[..., str],
) -> None:
    text = message(GOOD.replace("(register)", "(registry)"))
    assert "{'registry'}" in text
    assert text.endswith("Declare it as stabfw_register_accelerators(register)")


def test_methods_that_are_not_implemented(site: Site) -> None:
    site.module(
        "half",
        """
        from stabfw.components import Benchmark, BenchmarkConfig
        from stabfw.registry import hookimpl
        class Half(Benchmark):
            config_cls = BenchmarkConfig
            def extract(self, text, instance): ...
        @hookimpl
        def stabfw_register_benchmarks(register): register("half", Half)
        """,
    )
    site.distribution("half", {"stabfw.benchmarks": {"half": "half"}})
    with pytest.raises(PluginLoadError, match="does not implement instances in Half"):
        registry_of(site).load(Kind.BENCHMARK, "half")


def test_two_distributions_with_one_name(site: Site) -> None:
    for dist, version in [("first", "1.0"), ("second", "2.0")]:
        site.module(f"{dist}_plugin", GOOD)
        site.distribution(dist, {"stabfw.accelerators": {"mine": f"{dist}_plugin"}}, version)
    with pytest.raises(PluginConflictError) as caught:
        registry_of(site).load(Kind.ACCELERATOR, "mine")
    text = str(caught.value)
    assert text.startswith("accelerator 'mine' is declared more than once: ")
    assert "first 1.0 (first_plugin)" in text
    assert "second 2.0 (second_plugin)" in text
    assert not {"first_plugin", "second_plugin"} & set(sys.modules)

    (remedy,) = re.findall(r"STABFW_HIDE=(\S+) stabfw", text)
    left = registry_of(site, hidden=(remedy,)).find(Kind.ACCELERATOR, "mine")
    assert {left.distribution, remedy.partition(":")[0]} == {"first", "second"}


def test_hiding_by_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.demo()
    monkeypatch.setenv("STABFW_HIDE", "other:quant, demo-plugins:quant")
    with pytest.raises(UnknownPluginError):
        Registry().find(Kind.ACCELERATOR, "quant")
    assert Registry().find(Kind.ACCELERATOR, "prune")


def test_stale_metadata_of_the_same_distribution_is_no_conflict(tmp_path: Path) -> None:
    sites = [Site(tmp_path / "new"), Site(tmp_path / "old")]
    for site in sites:
        site.demo()
    assert registry_of(*sites).find(Kind.ACCELERATOR, "quant").version == "1.0"


def test_listing_imports_neither_plugins_nor_anything_heavy() -> None:
    code = (
        "import sys; from stabfw import Registry; Registry().plugins(); "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pluggy" in loaded
    heavy = {"torch", "transformers", "datasets", "mlflow", "numpy", "scipy", "PIL", "rich"}
    ours = {name for name in loaded if name.startswith("stabfw_")}
    assert not loaded & heavy
    assert not ours
