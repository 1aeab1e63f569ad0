"""Values with their origin: what overlays merge, and what a finished spec is flattened from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..diagnostics import Span
from .toml import Document, KeySpan

Path = tuple[str | int, ...]
Layer = Literal["spec", "extends", "size", "variant", "stage", "override"]


@dataclass(frozen=True)
class Origin:
    """Who gave a value: the layer, its name (`tiny`, the extended spec, the text of an override) and the place in a file."""

    layer: Layer
    name: str = ""
    span: Span | None = None
    key: Span | None = None

    @property
    def text(self) -> str:
        """For people: `size tiny, clip.toml:72`."""
        who = f"{self.layer} {self.name}".strip()
        return f"{who}, {self.span.file}:{self.span.line}" if self.span else who


@dataclass(frozen=True)
class Tree:
    """A scalar, a list of trees or a table of trees. Never changed: merging makes new ones."""

    value: Any
    origin: Origin

    @property
    def table(self) -> dict[str, Tree]:
        """The entries of a table; none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Tree]:
        """The items of a list; none for anything else."""
        return self.value if isinstance(self.value, list) else []

    @property
    def removes(self) -> bool:
        """Whether this is the mark `{ remove = true }`."""
        mark = self.table.get("remove")
        return mark is not None and mark.value is True

    def get(self, *path: str) -> Tree | None:
        """What stands at a path of table keys."""
        found: Tree | None = self
        for key in path:
            found = found.table.get(key) if found is not None else None
        return found

    def text(self, *path: str) -> str | None:
        """The string at a path, if there is one."""
        found = self.get(*path)
        return found.value if found is not None and isinstance(found.value, str) else None

    def plain(self) -> Any:
        """Dicts, lists and scalars without origins."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Tree]]:
        """Every value below with its path, tables and lists before what they hold."""
        yield path, self
        children = self.value.items() if isinstance(self.value, dict) else enumerate(self.items)
        for key, child in children:
            yield from child.walk((*path, key))

    def without(self, paths: set[Path], here: Path = ()) -> Tree:
        """A copy without what stands at some paths."""
        if isinstance(self.value, dict):
            return Tree({k: c.without(paths, (*here, k)) for k, c in self.value.items() if (*here, k) not in paths}, self.origin)
        if isinstance(self.value, list):
            return Tree([c.without(paths, (*here, i)) for i, c in enumerate(self.value) if (*here, i) not in paths], self.origin)
        return self

    def tagged(self, layer: Layer, name: str) -> Tree:
        """The same values as the contribution of another layer."""
        origin = Origin(layer, name, self.origin.span, self.origin.key)
        if isinstance(self.value, dict):
            return Tree({key: child.tagged(layer, name) for key, child in self.value.items()}, origin)
        if isinstance(self.value, list):
            return Tree([child.tagged(layer, name) for child in self.value], origin)
        return Tree(self.value, origin)


def from_document(document: Document, layer: Layer = "spec", name: str = "") -> Tree:
    """A file's values with their places."""

    def build(value: Any, path: Path) -> Tree:
        place: KeySpan | None = document.spans.get(path)
        origin = Origin(layer, name, place.value if place else None, place.key if place else None)
        if isinstance(value, Mapping):
            return Tree({key: build(child, (*path, key)) for key, child in value.items()}, origin)
        if isinstance(value, list):
            return Tree([build(child, (*path, i)) for i, child in enumerate(value)], origin)
        return Tree(value, origin)

    return build(document.data, ())


def from_plain(value: Any, origin: Origin) -> Tree:
    """Values of a Python dict, all of one origin. Raises ValueError for what TOML cannot hold."""
    return _plain(value, origin, 0)


def _plain(value: Any, origin: Origin, depth: int) -> Tree:
    if depth > 100:
        raise ValueError("the values are nested too deeply")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"a key is a string, not {key!r}")
        return Tree({key: _plain(child, origin, depth + 1) for key, child in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Tree([_plain(child, origin, depth + 1) for child in value], origin)
    if isinstance(value, (str, int, float)):  # bool is an int
        return Tree(value, origin)
    raise ValueError(f"a value is a string, number, boolean, list or table, not {type(value).__name__}")
