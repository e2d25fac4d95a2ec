"""Telling observers what happens, so that none of them can disturb an experiment."""

from __future__ import annotations

import logging

import pluggy

from stabfw.errors import PluginLoadError
from stabfw.registry import hooks
from stabfw.registry.contract import misspelt
from stabfw.registry.events import Event
from stabfw.registry.registry import Registry

log = logging.getLogger(__name__)


class Observers:
    """Those who are told of every event of an experiment.

    Example:
        >>> from stabfw.registry import Observers, Registry, events, hookimpl
        >>> class Printer:
        ...     @hookimpl
        ...     def stabfw_plan_ready(self, event):
        ...         print(event.cells, "cells")
        >>> observers = Observers(Registry())
        >>> observers.add(Printer(), "printer")
        >>> observers.notify(events.PlanReady("demo", cells=4, cached=0, instances=40))
        4 cells
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._hooks = {name for name in dir(hooks) if name.startswith("stabfw_")}

    def load(self, name: str) -> None:
        """Import an installed observer by its name and add it.

        Raises:
            PluginError: If it is unknown, in conflict, broken, or implements no hook.
        """
        plugin = self._registry.find(None, name)
        self.add(self._registry.load_observer(name), str(plugin))

    def add(self, plugin: object, name: str) -> None:
        """Add an observer: a module or an object with methods marked by `hookimpl`.

        Args:
            plugin: The observer.
            name: What to call it in messages.

        Raises:
            PluginLoadError: If it implements no hook, or one that does not exist or fit.
        """
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            # Whether something is left behind depends on pluggy's version.
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise PluginLoadError(
                f"{name} has a hook that does not fit its specification: "
                f"{' '.join(str(error).splitlines()[1:])}. Declare it with one argument, `event`"
            ) from error
        callers = self._manager.get_hookcallers(plugin) or []
        own = [i for caller in callers for i in caller.get_hookimpls() if i.plugin is plugin]
        problem = misspelt(plugin, self._hooks)
        if not problem and not own:
            problem = "implements no hook: mark its functions with @stabfw.hookimpl"
        elif any(i.wrapper or i.hookwrapper for i in own):
            problem = "has a hook wrapper: observers cannot wrap each other"
        if problem:
            self._manager.unregister(plugin)
            raise PluginLoadError(f"{name} {problem}")

    def notify(self, event: Event) -> None:
        """Tell every observer that implements the event's hook.

        What an observer raises is logged as a warning; the others are told all the same.
        """
        # Calling the hook itself would stop at the first exception.
        for implementation in reversed(getattr(self._manager.hook, event.hook).get_hookimpls()):
            try:
                implementation.function(*(event for _ in implementation.argnames))
            except Exception as error:
                log.warning(
                    "%s failed in %s: %s: %s",
                    implementation.plugin_name,
                    event.hook,
                    type(error).__name__,
                    error,
                    exc_info=log.isEnabledFor(logging.DEBUG),
                )
