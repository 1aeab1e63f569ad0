"""Roles of components, by which precision, quantisation and export address parts."""

from __future__ import annotations

from collections.abc import Callable

from .graph import Graph

ROLES = ("encoder", "connector", "embedding", "decoder", "head", "op")
OP = "op"
"""What has no role of its own."""


def role_of(graph: Graph) -> Callable[[str], str]:
    """A function that gives the role of the component that a module's path is in."""
    known = {name: config.role or OP for name, config in graph.components.items()}

    def role(path: str) -> str:
        inside = [c for c in known if path == c or path.startswith(f"{c}.")]
        return known[max(inside, key=len)] if inside else OP

    return role
