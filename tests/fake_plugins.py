"""Distributions with plugins, made for a test: real metadata and real modules in a directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoints, distributions
from pathlib import Path
from textwrap import dedent

from stabfw.registry import Registry

DEMO = {
    "stabfw.models": {"toy": "demo_plugins"},
    "stabfw.accelerators": {"prune": "demo_plugins", "quant": "demo_plugins"},
    "stabfw.benchmarks": {"cards": "demo_plugins"},
    "stabfw.perturbations": {"noise": "demo_plugins", "swap": "demo_plugins"},
    "stabfw.metrics": {"flips": "demo_plugins"},
}

DEMO_MODULE = '''
from typing import Literal
from pydantic import Field
from stabfw.components import *
from stabfw.registry import hookimpl

class ToyConfig(ModelConfig):
    path: str = Field("toy", description="Where the weights are.")

class Toy(Model[ToyConfig]):
    """A toy."""
    config_cls = ToyConfig
    def request(self): ...
    def describe(self, request): ...
    def open(self, request): ...

class QuantConfig(AcceleratorConfig):
    bits: int = Field(4, ge=1, le=8, description="Bits a weight.")
    mode: Literal["fast", "good"] = Field("good", description="How to round.")

class Quant(Accelerator[QuantConfig]):
    """Rounds weights.

    More text.
    """
    config_cls = QuantConfig
    occupies = frozenset({Slot.WEIGHTS})

class PruneConfig(AcceleratorConfig):
    layer: int = Field(2, ge=0, description="Where to prune.")
    keep: float = Field(0.5, gt=0, le=1, description="Share of tokens to keep.")

class Prune(Accelerator[PruneConfig]):
    config_cls = PruneConfig
    occupies = frozenset({Slot.VISUAL_TOKENS})

class Cards(Benchmark[BenchmarkConfig]):
    config_cls = BenchmarkConfig
    def instances(self, split): return []
    def extract(self, text, instance): ...

class NoiseConfig(PerturbationConfig):
    severity: int = Field(3, ge=0, description="Strength.")

class Noise(Perturbation[NoiseConfig]):
    config_cls = NoiseConfig
    modality = Modality.IMAGE
    def perturb(self, instance, rng): return instance

class SwapConfig(PerturbationConfig):
    words: tuple[str, ...] = Field((), description="What to swap.")

class Swap(Perturbation[SwapConfig]):
    config_cls = SwapConfig
    modality = Modality.TEXT
    def perturb(self, instance, rng): return instance

class Flips(Metric[MetricConfig]):
    config_cls = MetricConfig
    def compute(self, pairs): return []

@hookimpl
def stabfw_register_models(register): register("toy", Toy)
@hookimpl
def stabfw_register_accelerators(register):
    register("quant", Quant)
    register("prune", Prune)
@hookimpl
def stabfw_register_benchmarks(register): register("cards", Cards)
@hookimpl
def stabfw_register_perturbations(register):
    register("noise", Noise)
    register("swap", Swap)
@hookimpl
def stabfw_register_metrics(register): register("flips", Flips)
'''


class Site:
    """A directory like site-packages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def module(self, name: str, source: str) -> None:
        (self.path / f"{name}.py").write_text(dedent(source))

    def distribution(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        version: str = "1.0",
        extras: Mapping[str, str] | None = None,
    ) -> None:
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        for extra, requirement in (extras or {}).items():
            lines.append(f"Provides-Extra: {extra}")
            lines.append(f'Requires-Dist: {requirement}; extra == "{extra}"')
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        text = ""
        for group, entries in entry_points.items():
            text += f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
        (info / "entry_points.txt").write_text(text)

    def demo(self) -> None:
        """Install a plugin of each kind."""
        self.module("demo_plugins", DEMO_MODULE)
        self.distribution("demo-plugins", DEMO)


def registry_of(*sites: Site, hidden: tuple[str, ...] = ()) -> Registry:
    """A registry of what is in these directories and of nothing else."""
    found = distributions(path=[str(site.path) for site in sites])
    return Registry(EntryPoints(ep for dist in found for ep in dist.entry_points), hidden)


@contextmanager
def importable(*sites: Site) -> Iterator[None]:
    """Put the directories on `sys.path`, and forget their modules afterwards."""
    before = set(sys.modules)
    paths = [str(site.path) for site in sites]
    sys.path[:0] = paths
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(tuple(paths)):
                del sys.modules[name]
