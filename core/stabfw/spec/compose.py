"""From a plugin's name in a spec to its validated config.

A spec names a component as `{type: NAME, ...parameters}`, or by its bare name. The parameters are
checked by the config class of that plugin, which is loaded for it; no other plugin is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError

from stabfw.components import (
    BenchmarkConfig,
    Component,
    ComponentConfig,
    Kind,
    ModelConfig,
)
from stabfw.errors import PluginError
from stabfw.registry import Registry
from stabfw.spec.problems import detail, failure, hinted


class Selection(ComponentConfig):
    """A component's config together with the name of the plugin that it belongs to."""

    # JSON has neither infinity nor NaN, and everything here must survive dumping and loading.
    model_config = ConfigDict(allow_inf_nan=False, defer_build=True)

    type: str = Field(description="Name of the plugin.")

    def __reduce__(self) -> tuple[Any, ...]:
        # The class was made at run time, so pickle could not find it by its name.
        config_cls, base = type(self).__bases__
        return _restored, (base, config_cls, dict(self), self.model_fields_set)


class SelectedModel(Selection):
    """A model and its parameters."""


class SelectedAccelerator(Selection):
    """An accelerator and its parameters."""


class SelectedBenchmark(Selection):
    """A benchmark and its parameters."""


class SelectedPerturbation(Selection):
    """A perturbation and its parameters."""


class SelectedMetric(Selection):
    """A metric and its parameters."""


SELECTED: dict[Kind, type[Selection]] = {
    Kind.MODEL: SelectedModel,
    Kind.ACCELERATOR: SelectedAccelerator,
    Kind.BENCHMARK: SelectedBenchmark,
    Kind.PERTURBATION: SelectedPerturbation,
    Kind.METRIC: SelectedMetric,
}


@functools.cache
def selected(base: type[Selection], config_cls: type[ComponentConfig], name: str) -> Any:
    """The config class of a plugin, extended by `type`.

    Cached, so that equal configs have the same class and compare equal.
    """
    tag: Any = Literal[name]
    return create_model(
        config_cls.__name__,
        __base__=(config_cls, base),
        __module__=config_cls.__module__,
        __doc__=config_cls.__doc__,
        type=(tag, Field(description=f"Selects the plugin '{name}'.")),
    )


def components(registry: Registry, kind: Kind, config: Selection) -> Component[Any]:
    """Build the component that a config of a spec describes.

    Raises:
        PluginError: If its plugin is not installed any more or is broken.
    """
    return registry.load(kind, config.type)(config)


def label(config: Selection | Sequence[Selection]) -> str:
    """A short readable name: the type and the parameters that differ from their defaults.

    What has a name is called by it; the members of a composition are joined by ` + `. What changes
    no answer is left out.

    Example:
        `gaussian-noise severity=3 + typos`
    """
    if not isinstance(config, Selection):
        return " + ".join(map(label, config))
    if isinstance(config, ModelConfig):
        return config.name or config.type
    if isinstance(config, BenchmarkConfig) and config.name:
        return config.name
    parts = [config.type]
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name not in {"type", *config.aside} and (
            field.is_required() or value != _default(field)
        ):
            parts.append(f"{name}={_short(value)}")
    return " ".join(parts)


def _choose(kind: Kind) -> WrapValidator:
    def choose(
        value: object, handler: Callable[[object], object], info: ValidationInfo
    ) -> Selection:
        base = SELECTED[kind]
        if isinstance(value, base):
            return value
        if not isinstance(info.context, Registry):
            raise PydanticCustomError(
                "selection", "plugins are looked up by stabfw.spec.parse_spec and load_spec only"
            )
        written = {"type": value} if isinstance(value, str) else value
        if not isinstance(written, Mapping):
            raise PydanticCustomError(
                "selection", f"must be the {kind}'s name or a mapping with its `type`"
            )
        name = written.get("type")
        place = ("type",) if isinstance(value, Mapping) and "type" in value else ()
        if not isinstance(name, str):
            names = ", ".join(info.context.names(kind)) or "none"
            message = f"say which {kind} with `type: NAME` (installed: {names})"
            raise failure(detail(place, "selection", message, written))
        try:
            config_cls = info.context.load(kind, name).config_cls
        except PluginError as error:
            raise failure(detail(place, "plugin", str(error), name, error)) from error
        cls = selected(base, config_cls, name)
        try:
            chosen = cls.model_validate(written)
        except ValidationError as error:
            raise hinted(error, cls) from None
        assert isinstance(chosen, Selection)
        return chosen

    return WrapValidator(choose)


ModelChoice = Annotated[SerializeAsAny[SelectedModel], _choose(Kind.MODEL)]
AcceleratorChoice = Annotated[SerializeAsAny[SelectedAccelerator], _choose(Kind.ACCELERATOR)]
BenchmarkChoice = Annotated[SerializeAsAny[SelectedBenchmark], _choose(Kind.BENCHMARK)]
PerturbationChoice = Annotated[SerializeAsAny[SelectedPerturbation], _choose(Kind.PERTURBATION)]
MetricChoice = Annotated[SerializeAsAny[SelectedMetric], _choose(Kind.METRIC)]


def _restored(
    base: type[Selection],
    config_cls: type[ComponentConfig],
    values: dict[str, Any],
    fields_set: set[str],
) -> Any:
    return selected(base, config_cls, values["type"]).model_construct(fields_set, **values)


def _default(field: Any) -> object:
    return field.get_default(call_default_factory=True)


def _short(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, separators=(",", ":"))
