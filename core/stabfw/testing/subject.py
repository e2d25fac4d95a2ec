"""The plugin under test: how checks make its component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError, create_model

from stabfw.components import Component, ComponentConfig, Kind
from stabfw.errors import PluginError
from stabfw.registry import PluginInfo, Registry
from stabfw.testing.check import NotApplicableError

if TYPE_CHECKING:
    from stabfw.testing.bench import Bench


@dataclass(frozen=True)
class Subject:
    """A plugin with the config that it is tried with.

    Attributes:
        kind: Kind of the component.
        name: Name of the plugin.
        config: Values of its config; what is not given has its default.
        registry: Where it is loaded from.
        bench: Holds the model that accelerators are tried on.
    """

    kind: Kind
    name: str
    config: Mapping[str, Any]
    registry: Registry
    bench: Bench

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def plugin(self) -> PluginInfo:
        """What its distribution declares.

        Raises:
            NotApplicableError: If it is not declared, or more than once.
        """
        try:
            return self.registry.find(self.kind, self.name)
        except PluginError:
            raise NotApplicableError("it is not found: see check_registration") from None

    @property
    def component_cls(self) -> type[Component[Any]]:
        """The component's class.

        Raises:
            NotApplicableError: If it cannot be loaded, which is for one check to tell.
        """
        try:
            return self.registry.load(self.kind, self.name)
        except PluginError:
            raise NotApplicableError("it cannot be loaded: see check_registration") from None

    def make(self, **changes: Any) -> Any:
        """Make a fresh component as an experiment would, with some values of its config changed.

        Raises:
            NotApplicableError: If its config does not take the values.
        """
        return component(self.component_cls, self.name, self.values(**changes))

    def values(self, **changes: Any) -> dict[str, Any]:
        """The values of its config, some of them changed.

        Raises:
            NotApplicableError: If its config does not take them.
        """
        values = {**self.config, **changes}
        config_cls = self.component_cls.config_cls
        needed = [
            name
            for name, field in config_cls.model_fields.items()
            if field.is_required() and name not in values
        ]
        if needed:
            raise NotApplicableError(f"it needs a config to be tried with: {', '.join(needed)}")
        try:
            config_cls.model_validate(values)
        except ValidationError as error:
            if changes:
                raise NotApplicableError(f"its config does not take {changes}") from error
            raise NotApplicableError(
                "its config is not valid: see check_config_round_trip"
            ) from error
        return values


def component(cls: type[Component[Any]], name: str, values: Mapping[str, Any]) -> Component[Any]:
    """Make a component whose config has the field `type`, like those that a spec gives."""
    tag: Any = Literal[name]
    config_cls: type[ComponentConfig] = create_model(
        cls.config_cls.__name__, __base__=cls.config_cls, type=(tag, name)
    )
    return cls(config_cls.model_validate(dict(values)))
