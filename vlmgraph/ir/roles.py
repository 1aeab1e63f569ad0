"""Roles of components, by which precision, quantisation and export address parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .graph import Graph

ROLES = ("encoder", "connector", "embedding", "decoder", "head", "op")
OP = "op"
"""What has no role of its own."""
LANGUAGE = ("decoder", "head")
"""The language model, which is read anew for every token. Vision and connectors run once a picture, and suffer more from few bits."""
Choice = str | Sequence[str] | Mapping[str, str]
"""A type for roles: `TYPE`, `ROLE=TYPE`, several of them with commas between or in a list, or a table role → type."""
T = TypeVar("T")


def role_of(graph: Graph) -> Callable[[str], str]:
    """A function that gives the role of the component that a module's path is in."""
    known = {name: config.role or OP for name, config in graph.components.items()}

    def role(path: str) -> str:
        inside = [c for c in known if path == c or path.startswith(f"{c}.")]
        return known[max(inside, key=len)] if inside else OP

    return role


def by_role(given: Choice, option: str, types: Mapping[str, T], usual: Sequence[str], roles: Sequence[str] = ROLES) -> dict[str, T]:
    """What `types` has under the name that each role is given; a name without a role is for the `usual` ones; later ones win.

    Raises DiagnosticError for roles and types that there are not; `option` says where they were written.
    """
    texts = [given] if isinstance(given, str) else [f"{r}={t}" for r, t in given.items()] if isinstance(given, Mapping) else given
    found: dict[str, T] = {}
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        role, equals, name = text.rpartition("=")
        if equals and role not in roles:
            raise refused(f"{option} {text}: there is no role {role!r}", f"roles: {', '.join(roles)}")
        if name not in types:
            raise refused(f"{option} {text}: there is no type {name!r}", f"one of {', '.join(types)}, for a role with ROLE= in front")
        found |= dict.fromkeys([role] if equals else usual, types[name])
    return found


def refused(text: str, fix: str) -> DiagnosticError:
    return DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix=fix))
