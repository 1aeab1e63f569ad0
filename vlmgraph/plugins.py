"""Discovery of components, passes, targets and specs through entry points; built-ins use the same door."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .diagnostics import Diagnostic, Label
from .diagnostics import codes as C

GROUPS = ("vlmgraph.components", "vlmgraph.passes", "vlmgraph.targets", "vlmgraph.specs")


class PluginError(Exception):
    """A plugin that is absent, clashes, fails to import or speaks another API version."""

    def __init__(self, reason: str, name: str, detail: str = "", near: tuple[str, ...] = ()) -> None:
        self.reason, self.name, self.detail, self.near = reason, name, detail, near
        super().__init__(f"{name}: {reason} {detail}".strip())


def fault(config: Any, error: Exception, at: Label | None) -> Diagnostic:
    """What is said where the code of a component from another package raises."""
    cls = type(config)
    note = f"{cls.__module__}:{cls.__qualname__} provides it"
    return Diagnostic(C.PLUGIN_FAULT, f"the code of {config.kind!r} fails: {type(error).__name__}: {error}", at, notes=(note,))


@dataclass(frozen=True)
class Registry:
    """The entry points of one group by exact name. Loading is lazy."""

    group: str
    points: dict[str, tuple[EntryPoint, ...]]

    def names(self) -> list[str]:
        return sorted(self.points)

    def load(self, name: str) -> Any:
        """The object behind `name`. Raises PluginError with reason `unknown`, `clash`, `import` or `api`."""
        import difflib

        found = self.points.get(name, ())
        if not found:
            near = tuple(difflib.get_close_matches(name, self.points, 3, 0.5))
            raise PluginError("unknown", name, near=near)
        if len(found) > 1:
            owners = ", ".join(sorted(f"{p.dist.name if p.dist else '?'} ({p.value})" for p in found))
            raise PluginError("clash", name, owners)
        try:
            loaded = found[0].load()
        except (Exception, SystemExit) as error:  # whatever a plugin's import raises is its author's message to the user
            owner = found[0].dist.name if found[0].dist else "?"
            raise PluginError("import", name, f"{found[0].value} of {owner}: {type(error).__name__}: {error}") from error
        from .components.base import API_VERSION

        version = getattr(loaded, "api", API_VERSION)
        if version != API_VERSION:
            raise PluginError("api", name, f"built for API {version}, this is API {API_VERSION}")
        return loaded


@cache
def installed() -> Any:
    """All entry points: the installed distributions are gone through once."""
    return entry_points()


@cache
def registry(group: str = "vlmgraph.components") -> Registry:
    points: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    owners: dict[int, str] = {}  # a distribution parses its metadata each time it is asked for its name
    for point in installed().select(group=group):
        if id(point.dist) not in owners:
            owners[id(point.dist)] = point.dist.name if point.dist else "?"
        owner = owners[id(point.dist)]
        # an editable install can be listed twice under two paths; the same owner and value is one plugin
        points.setdefault(point.name, {})[(owner, point.value)] = point
    return Registry(group, {name: tuple(found.values()) for name, found in points.items()})
