"""One installed plugin: what is known of it without importing it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from stabfw.components import Kind

#: Entry-point group of observers, which have no kind.
OBSERVERS = "stabfw"


@dataclass(frozen=True)
class PluginInfo:
    """A plugin as its distribution declares it.

    Attributes:
        kind: Kind of the component, None for an observer.
        entry_point: The declaration.
    """

    kind: Kind | None
    entry_point: EntryPoint

    # Reading a distribution's metadata takes time, so it waits until somebody asks.

    @property
    def name(self) -> str:
        """Name in specs and of the entry point."""
        return self.entry_point.name

    @property
    def distribution(self) -> str:
        """Name of the distribution that declares it."""
        return self.entry_point.dist.name if self.entry_point.dist else "unknown distribution"

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self.entry_point.dist.version if self.entry_point.dist else "unknown version"

    @property
    def module(self) -> str:
        """What the entry point refers to: `package.module` or `package.module:attribute`."""
        return self.entry_point.value

    def __str__(self) -> str:
        role = f"{self.kind} plugin" if self.kind else "observer"
        return f"{role} '{self.name}' ({self.distribution} {self.version}, {self.module})"

    def advice(self, error: BaseException) -> str:
        """Say what to do about an import that failed, now or at a later use of the plugin."""
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        package = (missing or "").partition(".")[0]
        target = self.entry_point.module
        if missing and f"{target}.".startswith(f"{missing}."):
            return (
                f"its entry point names a module that is not there: reinstall {self.distribution}"
            )
        if not missing or package == target.partition(".")[0]:
            return f"report it to the authors of {self.distribution}, or uninstall it"
        if extra := self._extra_with(package):
            return f'install what it needs: pip install "{self.distribution}[{extra}]"'
        return f"install the package that provides '{missing}'"

    def _extra_with(self, module: str) -> str | None:
        # A module's name need not be its distribution's (`PIL` is in `pillow`), so an extra named
        # like the plugin is the better guess.
        dist = self.entry_point.dist
        if dist is None:
            return None
        offered = [_normal(extra) for extra in dist.metadata.get_all("Provides-Extra") or ()]
        if (own := _normal(self.name)) in offered:
            return own
        for requirement in dist.requires or ():
            package = re.match(r"[A-Za-z0-9._-]+", requirement)
            extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
            if package and extra and _normal(package[0]) == _normal(module):
                return extra[1]
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
