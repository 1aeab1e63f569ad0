"""Digests of what makes a model: its resolved spec, the plugins that it uses, and the tool itself."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..plugins import registry

if TYPE_CHECKING:
    from ..ir.graph import Graph

SOURCES = (".py", ".toml", ".jinja", ".j2")
ELSEWHERE = ("codegen", "specs")
"""Folders that stand inside the package when it is installed and beside it in a checkout."""


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digests(body: str, graph: Graph) -> dict[str, str]:
    """What the digest is of → sha256: `spec`, the tool with its version, and each plugin package with its version."""
    return {"spec": text_digest(body), f"vlmgraph {__version__}": package_digest("vlmgraph"), **plugin_digests(graph)}


def plugin_digests(graph: Graph) -> dict[str, str]:
    """Of every package besides vlmgraph that provides a component of the graph."""
    found: dict[str, str] = {}
    points = registry().points
    for config in graph.components.values():
        for point in points.get(config.kind, ()):
            if point.dist is not None and point.dist.name != "vlmgraph":
                found[f"{point.dist.name} {point.dist.version}"] = package_digest(point.module.partition(".")[0])
    return dict(sorted(found.items()))


@cache
def package_digest(name: str) -> str:
    """Of the sources and data of an importable package. The same for a wheel and an editable install."""
    total = hashlib.sha256()
    for inside, path in sorted(_sources(name)):
        content = path.read_bytes()
        total.update(f"{inside}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _sources(name: str) -> Iterator[tuple[str, Path]]:
    module = importlib.import_module(name)
    for place in getattr(module, "__path__", ()):
        root = Path(place)
        for path in root.rglob("*"):
            inside = path.relative_to(root)
            if path.suffix in SOURCES and not (name == "vlmgraph" and inside.parts[0] in ELSEWHERE):
                yield inside.as_posix(), path
    if name == "vlmgraph":  # the source generator decides what is written; specs are inputs, with a digest of their own
        yield from ((f"codegen/{name}", path) for name, path in _sources("vlmgraph.codegen"))
    if not hasattr(module, "__path__") and module.__file__:
        yield Path(module.__file__).name, Path(module.__file__)
