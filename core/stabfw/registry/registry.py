"""Which plugins are installed, and loading one by its name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import EntryPoints, entry_points
from typing import Any

import pluggy

from stabfw.components import Component, Kind
from stabfw.errors import PluginConflictError, PluginLoadError, UnknownPluginError
from stabfw.registry import hooks
from stabfw.registry.contract import breach, did_you_mean, listed, misspelt
from stabfw.registry.plugin import OBSERVERS, PluginInfo

#: Environment variable that hides plugins: `DISTRIBUTION:NAME`, several separated by commas.
HIDE = "STABFW_HIDE"


class Registry:
    """The plugins of this Python environment.

    Installed distributions are read once, when the registry is made; a plugin is imported when it
    is first loaded by name, and no other.

    Example:
        >>> registry = Registry()
        >>> registry.load(Kind.ACCELERATOR, "hqq")  # doctest: +SKIP
        <class 'stabfw_accelerators.hqq.Hqq'>
    """

    def __init__(
        self, declared: EntryPoints | None = None, hidden: Iterable[str] | None = None
    ) -> None:
        """Read what is declared.

        Args:
            declared: Entry points to use instead of those of the installed distributions.
            hidden: Plugins to ignore, each as `DISTRIBUTION:NAME`; by default those that the
                environment variable `STABFW_HIDE` lists.
        """
        source = entry_points() if declared is None else declared
        hidden = os.environ.get(HIDE, "").split(",") if hidden is None else hidden
        hidden = {item.strip() for item in hidden} - {""}
        self._found: dict[tuple[Kind | None, str], list[PluginInfo]] = {}
        self._loaded: dict[tuple[Kind, str], type[Component[Any]]] = {}
        for kind in (*Kind, None):
            for entry_point in source.select(group=kind.group if kind else OBSERVERS):
                plugin = PluginInfo(kind, entry_point)
                same = self._found.setdefault((kind, plugin.name), [])
                if hidden and f"{plugin.distribution}:{plugin.name}" in hidden:
                    continue
                # Stale metadata can show one distribution twice; that is not a conflict.
                if not same or str(plugin) not in map(str, same):
                    same.append(plugin)

    def plugins(self) -> list[PluginInfo]:
        """All plugins, by kind and name, observers last; of conflicting ones, each."""
        order = [*Kind, None]
        keys = sorted(self._found, key=lambda key: (order.index(key[0]), key[1]))
        return [plugin for key in keys for plugin in self._found[key]]

    def names(self, kind: Kind | None) -> list[str]:
        """Names of the plugins of a kind, or of the observers, sorted."""
        return sorted(name for k, name in self._found if k is kind and self._found[k, name])

    def find(self, kind: Kind | None, name: str) -> PluginInfo:
        """Look a plugin up without importing it.

        Args:
            kind: Kind of the component, None for an observer.
            name: Name of its entry point.

        Raises:
            UnknownPluginError: If no installed distribution declares it.
            PluginConflictError: If several do.
        """
        match self._found.get((kind, name), []):
            case [plugin]:
                return plugin
            case []:
                raise UnknownPluginError(self._unknown(kind, name))
            case several:
                choices = listed(f"{p.distribution} {p.version} ({p.module})" for p in several)
                raise PluginConflictError(
                    f"{kind or 'observer'} '{name}' is declared more than once: {choices}. "
                    f"Uninstall all but one, or hide one: "
                    f"{HIDE}={several[-1].distribution}:{name} stabfw ..."
                )

    def load(self, kind: Kind, name: str) -> type[Component[Any]]:
        """Import a component's module, let it register, and check that it keeps the contract.

        Raises:
            UnknownPluginError: If no installed distribution declares it.
            PluginConflictError: If several do.
            PluginLoadError: If it cannot be imported or breaks the contract.
        """
        if (kind, name) not in self._loaded:
            plugin = self.find(kind, name)
            component = _registered(plugin, kind, _imported(plugin))
            if problem := breach(kind, component):
                raise PluginLoadError(f"{plugin} {problem}")
            self._loaded[kind, name] = component
        return self._loaded[kind, name]

    def load_observer(self, name: str) -> object:
        """Import an observer; `Observers.add` checks its hooks.

        Raises:
            UnknownPluginError: If no installed distribution declares it.
            PluginConflictError: If several do.
            PluginLoadError: If it cannot be imported.
        """
        return _imported(self.find(None, name))

    def _unknown(self, kind: Kind | None, name: str) -> str:
        role = kind or "observer"
        names = self.names(kind)
        hint = did_you_mean(name, names)
        others = [str(k) for k in Kind if k is not kind and name in self.names(k)]
        if others:
            hint = f"; there is one of that name among the {others[0]}s"
        return (
            f"unknown {role} '{name}'{hint} (installed: {listed(names)}). "
            "Check the spelling, or install the distribution that provides it"
        )


def _imported(plugin: PluginInfo) -> Any:
    try:
        return plugin.entry_point.load()
    # A plugin that exits while it is imported is as broken as one that raises.
    except (Exception, SystemExit) as error:
        raise PluginLoadError(
            f"{plugin} cannot be imported: {type(error).__name__}: {error}. "
            f"To go on, {plugin.advice(error)}"
        ) from error


def _registered(plugin: PluginInfo, kind: Kind, module: object) -> Any:
    # A manager of its own for each plugin: what one declares cannot leak into another's hook call.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    known = {name for name in dir(hooks) if name.startswith("stabfw_")}
    got: dict[str, object] = {}

    def register(name: str, component: object) -> None:
        if name in got:
            raise ValueError(f"'{name}' is registered twice")
        got[name] = component

    try:
        manager.register(module, str(plugin))
        getattr(manager.hook, kind.hook)(register=register)
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(
            f"{plugin} has a hook that does not fit its specification: "
            f"{' '.join(str(error).splitlines()[1:])}. Declare it as {kind.hook}(register)"
        ) from error
    except Exception as error:
        raise PluginLoadError(
            f"{plugin} fails in {kind.hook}: {type(error).__name__}: {error}. "
            f"To go on, {plugin.advice(error)}"
        ) from error
    if plugin.name in got:
        return got[plugin.name]
    if got:
        problem = (
            f"registers {listed(map(repr, got))} instead of '{plugin.name}': "
            "use the name of the entry point"
        )
    elif typo := misspelt(module, known):
        problem = f"registers nothing: it {typo}"
    elif hasattr(module, kind.hook) and not manager.get_hookcallers(module):
        problem = f"registers nothing: mark {kind.hook} with @stabfw.hookimpl"
    else:
        problem = (
            f"registers nothing: define {kind.hook}(register) and let it call "
            f"register('{plugin.name}', ...)"
        )
    raise PluginLoadError(f"{plugin} {problem}")
