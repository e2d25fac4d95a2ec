"""What a plugin must keep to, checked when it is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from stabfw.components import (
    API_VERSION,
    Accelerator,
    AcceleratorConfig,
    Benchmark,
    BenchmarkConfig,
    Component,
    ComponentConfig,
    Kind,
    Metric,
    MetricConfig,
    Model,
    ModelConfig,
    Perturbation,
    PerturbationConfig,
)

#: Base classes of each kind: of the component and of its config.
BASES: dict[Kind, tuple[type[Component[Any]], type[ComponentConfig]]] = {
    Kind.MODEL: (Model, ModelConfig),
    Kind.ACCELERATOR: (Accelerator, AcceleratorConfig),
    Kind.BENCHMARK: (Benchmark, BenchmarkConfig),
    Kind.PERTURBATION: (Perturbation, PerturbationConfig),
    Kind.METRIC: (Metric, MetricConfig),
}

SUPPORTED_API = range(1, API_VERSION + 1)


def breach(kind: Kind, component: object) -> str | None:
    """Say how a registered object breaks the contract of its kind, or None if it keeps it."""
    base, config_base = BASES[kind]
    if not (isinstance(component, type) and issubclass(component, base)):
        return (
            f"registers {component!r}, which is not a subclass of stabfw.components.{base.__name__}"
        )
    who = component.__qualname__
    if component.api_version not in SUPPORTED_API:
        older = component.api_version < API_VERSION
        remedy = "upgrade the plugin" if older else "upgrade stabfw"
        return (
            f"was written for plugin API {component.api_version}, but this stabfw supports "
            f"{listed(SUPPORTED_API)}: {remedy}"
        )
    config = getattr(component, "config_cls", None)
    if not (isinstance(config, type) and issubclass(config, config_base)):
        return (
            f"has no valid config: set {who}.config_cls to a subclass of "
            f"stabfw.components.{config_base.__name__} (it is {config!r})"
        )
    if "type" in config.model_fields:
        return f"has a config field 'type', which selects the plugin in a spec: rename it in {who}"
    abstract = [
        name
        for name in dir(component)
        if getattr(getattr(component, name, None), "__isabstractmethod__", False)
    ]
    return f"does not implement {listed(abstract)} in {who}" if abstract else None


def misspelt(plugin: object, known: Iterable[str]) -> str | None:
    """Find a function of a plugin that looks like a hook but is none, and say what was meant."""
    known = sorted(known)
    for name in dir(plugin):
        if name.startswith("stabfw_") and name not in known and callable(getattr(plugin, name)):
            return f"defines '{name}', which is not a hook{did_you_mean(name, known)}"
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of the known names is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def listed(items: Iterable[object]) -> str:
    """The items separated by commas, or `none`."""
    return ", ".join(str(item) for item in items) or "none"
