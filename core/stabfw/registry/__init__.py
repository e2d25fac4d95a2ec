"""Which plugins exist: discovery, loading by name, hooks, and telling observers."""

from stabfw.registry import events
from stabfw.registry.hooks import hookimpl, hookspec
from stabfw.registry.observers import Observers
from stabfw.registry.plugin import PluginInfo
from stabfw.registry.registry import Registry

__all__ = ["Observers", "PluginInfo", "Registry", "events", "hookimpl", "hookspec"]
