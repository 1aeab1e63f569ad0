"""What overlays do to edges: removed names join the ends of their links, a new edge into an occupied port replaces the old one.

Edges stay text. What goes is blanked with spaces, so that every offset still points at its place in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..plugins import PluginError, registry
from .edges import Chain, EdgeError, Endpoint, Group, parse_edge
from .tree import Tree

Link = Endpoint | Group


def items_of(link: Link) -> tuple[Endpoint, ...]:
    return link.items if isinstance(link, Group) else (link,)


def read(text: object) -> Chain | None:
    """The chain of an edge, or None for one that the elaborator will report."""
    try:
        return parse_edge(text) if isinstance(text, str) else None
    except EdgeError:
        return None


@dataclass(frozen=True)
class Names:
    """What a scope (the spec, or an inner block) declares: enough to tell ports apart without building anything."""

    scope: Tree

    def declared(self, name: str) -> bool:
        return any(self.scope.get(table, name) is not None for table in ("components", "nodes", "inputs", "outputs", "objectives"))

    def inline(self, end: Endpoint) -> bool:
        """`op.normalize` or `op.pixel_shuffle(2)`: a node of this edge alone."""
        return end.call is not None or (len(end.path) > 1 and not self.declared(end.path[0]))

    def ports(self, name: str) -> tuple[list[str], list[str]]:
        """The input and output ports that the type of a component or node declares; empty where only its config can tell."""
        component = self.scope.text("nodes", name, "uses") or name
        kind = self.scope.text("components", component, "type")
        if kind is None or kind not in registry().points:
            return [], []
        try:
            declared = getattr(registry().load(kind), "ports", None)
        except PluginError:
            return [], []  # reported where the component is built
        return (list(declared.inputs), list(declared.outputs)) if declared is not None else ([], [])

    def destination(self, end: Endpoint) -> str:
        """The port that an edge's end feeds, the default port by its name."""
        head, *rest = end.path
        inputs, outputs = self.ports(head)
        if rest and not self.is_output(rest[0], inputs, outputs):
            return ".".join(end.path)
        return f"{head}.{inputs[0]}" if inputs else head

    @staticmethod
    def is_output(port: str, inputs: list[str], outputs: list[str]) -> bool:
        return port in ("hidden", "tokens", *outputs) and port not in inputs

    def starts(self, end: Endpoint) -> list[tuple[int, int]]:
        """The parts of the text of a chain's middle that read as its start: `b.k` in `a -> b.k -> c` was the port that was fed."""
        head, *rest = end.path
        inputs, outputs = self.ports(head)
        if not rest or self.is_output(rest[0], inputs, outputs):
            return [(end.start, end.end)]
        return [(end.start, end.start + len(head)), *((b.start, b.end) for b in end.brackets)]


def without(text: str, gone: frozenset[str], names: Names) -> str | None:
    """An edge after the removal of some names; None when nothing of it is left."""
    chain = read(text)
    if chain is None or not any(end.path[0] in gone for link in chain.links for end in items_of(link)):
        return text
    kept = [(link, [end for end in items_of(link) if end.path[0] not in gone]) for link in chain.links]
    first, last = bool(kept[0][1]), bool(kept[-1][1])
    kept = [(link, ends) for link, ends in kept if ends]
    # an inline op that has lost the value it took, or its only reader, goes too
    while kept and not first and all(names.inline(end) for end in kept[0][1]):
        kept.pop(0)
    while kept and not last and all(names.inline(end) for end in kept[-1][1]):
        kept.pop()
    return written(text, kept) if len(kept) > 1 else None


def rebound(text: str, taken: frozenset[str], names: Names) -> list[str]:
    """An edge after newer edges have taken some ports: cut in front of each, so that what comes behind still runs."""
    chain = read(text)
    if chain is None:
        return [text]
    chains: list[tuple[list[tuple[Link, list[Endpoint]]], bool]] = []
    current: list[tuple[Link, list[Endpoint]]] = [(chain.links[0], list(items_of(chain.links[0])))]
    headless = False
    for link in chain.links[1:]:
        ends = list(items_of(link))
        kept = [end for end in ends if names.inline(end) or names.destination(end) not in taken]
        if len(kept) == len(ends):
            current.append((link, ends))
            continue
        if kept:
            current.append((link, kept))
        else:
            while current and all(names.inline(end) for end in current[-1][1]):
                current.pop()
        chains.append((current, headless))
        current, headless = [(link, ends)], True
    chains.append((current, headless))
    if len(chains) == 1:
        return [text]
    return [written(text, links, names if cut else None) for links, cut in chains if len(links) > 1]


def written(text: str, kept: list[tuple[Link, list[Endpoint]]], head: Names | None = None) -> str:
    """The text with only some links, and of groups only some items. With `head` the first link becomes a start."""
    pieces: list[tuple[int, int]] = []
    for i, (link, ends) in enumerate(kept):
        if i:
            arrow = text.rfind("->", 0, link.start)
            pieces.append((arrow, arrow + 2))
        if isinstance(link, Group):
            pieces += [(link.start, link.start + 1), (link.end - 1, link.end)]
        for j, end in enumerate(ends):
            if j:
                comma = text.rfind(",", 0, end.start)
                pieces.append((comma, comma + 1))
            pieces += head.starts(end) if head is not None and i == 0 else [(end.start, end.end)]
    blank = [" "] * len(text)
    for start, stop in pieces:
        blank[start:stop] = text[start:stop]
    return "".join(blank).rstrip()


def strip(edges: Tree, gone: frozenset[str], names: Names) -> Tree:
    """A list of edges, or a table of such lists, without some names."""
    return mapped(edges, lambda text: [] if (left := without(text, gone, names)) is None else [left])


def replace(edges: Tree, new: Iterable[Tree], names: Names) -> Tree:
    """A list of edges, or a table of such lists, without what newer edges feed."""
    chains = [chain for tree in new if (chain := read(tree.value)) is not None]
    taken = frozenset(
        names.destination(end) for chain in chains for link in chain.links[1:] for end in items_of(link) if not names.inline(end)
    )
    return mapped(edges, lambda text: rebound(text, taken, names))


def mapped(edges: Tree, change: Callable[[str], list[str]]) -> Tree:
    if edges.table:
        return Tree({name: mapped(group, change) for name, group in edges.table.items()}, edges.origin)
    made: list[Tree] = []
    for edge in edges.items:
        made += [Tree(text, edge.origin) for text in change(edge.value)] if isinstance(edge.value, str) else [edge]
    return Tree(made, edges.origin) if isinstance(edges.value, list) else edges
