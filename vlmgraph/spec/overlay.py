"""One layer over another: deep merge by key, with the rules for types, removals, edges and slots."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from . import rewire
from .names import NUMBERED
from .tree import Path, Tree

SCOPED = ("components", "nodes", "inputs", "outputs")
"""Tables whose names edges may use."""


@dataclass(frozen=True)
class Overlay:
    """Lays trees over trees and reports what cannot be meant.

    `strict` layers (sizes, variants, stages) change what is there: a component that they alone know must say what it is.
    `gone` are the paths that layers before have removed: with `keeps_gone` (sizes) a change of one of them is left out silently.
    """

    found: Collector
    strict: bool = False
    keeps_gone: bool = False
    gone: set[Path] = field(default_factory=set)

    def apply(self, base: Tree, over: Tree) -> Tree:
        """A whole spec, or an overlay of one, over a spec."""
        base = self.without_removed(base, over)
        return self.merge(base, over, (), base)

    # ---- removals

    def without_removed(self, base: Tree, over: Tree) -> Tree:
        """The base with no edge through what the overlay removes, no tie of it, and no stage that trains it."""
        gone = removed(over)
        table = dict(base.table)
        if gone:
            for name in ("graph", "objectives"):
                if name not in table:
                    continue
                holders: dict[str, Tree] = {name: table[name]} if name == "graph" else dict(table[name].table)
                for key, holder in holders.items():
                    holders[key] = strip_edges(holder, gone, rewire.Names(base))
                table[name] = holders[name] if name == "graph" else Tree(holders, table[name].origin)
            parts = frozenset(n for n in gone if over.get("components", n) is not None)
            table |= {name: strip_addresses(table[name], parts) for name in ("stages", "graph") if name in table}
        blocks = table.get("blocks")
        if blocks is not None and blocks.table and "blocks" in over.table:
            inner = dict(blocks.table)
            for key, change in over.table["blocks"].table.items():
                if key in inner and (gone := removed(change)):
                    inner[key] = strip_edges(inner[key], gone, rewire.Names(inner[key]))
            table["blocks"] = Tree(inner, blocks.origin)
        return Tree(table, base.origin)

    # ---- merging

    def merge(self, base: Tree, over: Tree, path: Path, scope: Tree) -> Tree:
        """A table over a table. `scope` is the spec or block whose names the edges at hand use."""
        table = dict(base.table)
        for key, new in over.table.items():
            here = (*path, key)
            old = table.get(key)
            if old is None and self.keeps_gone and here in self.gone:
                continue
            if new.removes and not pending(here):
                if old is None:
                    self.nothing_to_remove(here, new, table)
                table.pop(key, None)
                self.gone.add(here)
            elif old is None:
                if self.strict and is_component(here) and not introduces(new):
                    self.unknown_component(here, new, table)
                    continue
                table[key] = self.fresh(new, here, scope)
            else:
                table[key] = self.over(old, new, here, scope if not is_block(here) else old)
        return Tree(table, base.origin if base.origin.span or not over.origin.span else over.origin)

    def over(self, old: Tree, new: Tree, path: Path, scope: Tree) -> Tree:
        """One value over another."""
        if holds_edges(path):
            return self.edges(old, new, scope)
        if isinstance(old.value, dict) and isinstance(new.value, dict):
            if old.removes or new.removes or ("type" in new.table and kind(new) != kind(old)):
                return self.fresh(new, path, scope)
            return self.merge(old, new, path, scope)
        if is_slot(path):
            # a slot's filling by name, and the width of an MLP or the side of a patch by a number, are short for a table
            if isinstance(new.value, dict) and "type" not in new.table and isinstance(old.value, str):
                return Tree({"type": old, **new.value}, new.origin)
            field = NUMBERED.get(str(path[-1]))
            if number(new) and "type" in old.table and field:
                return Tree({**old.table, field: new}, old.origin)
        return self.fresh(new, path, scope)

    def fresh(self, new: Tree, path: Path, scope: Tree) -> Tree:
        """A new value without the removal marks inside it: there is nothing below them."""
        if pending(path) or not isinstance(new.value, dict):
            return new
        return Tree({key: self.fresh(child, (*path, key), scope) for key, child in new.table.items() if not child.removes}, new.origin)

    def edges(self, old: Tree, new: Tree, scope: Tree) -> Tree:
        """Lists or named groups of edges. What both name is merged, and a newer edge owns the ports that it feeds.

        `{ remove = "a -> b" }` in place of an edge only takes the port.
        """
        fresh = [edge for group in (new.table.values() or [new]) for edge in group.items]
        kept = rewire.replace(old, [edge.get("remove") or edge for edge in fresh], rewire.Names(scope))
        new = without_removals(new)
        if isinstance(kept.value, list) and isinstance(new.value, list):
            return Tree([*kept.items, *new.items], kept.origin)
        groups = dict(kept.table) if isinstance(kept.value, dict) else {"main": kept}
        for name, group in new.table.items() if isinstance(new.value, dict) else [("main", new)]:
            if group.removes:
                groups.pop(name, None)
            elif isinstance(group.value, list) and name in groups and isinstance(groups[name].value, list):
                groups[name] = Tree([*groups[name].items, *group.items], groups[name].origin)
            else:
                groups[name] = group
        return Tree(groups, kept.origin)

    # ---- findings

    def nothing_to_remove(self, path: Path, new: Tree, there: dict[str, Tree]) -> None:
        where = new.origin.key or new.origin.span
        self.found.add(
            Diagnostic(
                C.BAD_OVERRIDE,
                f"{layer(new)} removes {dotted(path)}, which is not there",
                Label(where, "") if where else None,
                fix=near(str(path[-1]), there),
                severity="warning",
            )
        )

    def unknown_component(self, path: Path, new: Tree, there: dict[str, Tree]) -> None:
        where = new.origin.key or new.origin.span
        self.found.add(
            Diagnostic(
                C.BAD_OVERRIDE,
                f"{layer(new)} changes component {path[-1]!r}, which is not there",
                Label(where, "not a component of the spec") if where else None,
                notes=("a new component needs a `type`",),
                fix=near(str(path[-1]), there),
            )
        )


def without_removals(edges: Tree) -> Tree:
    """Edges, in a list or in named lists, without the entries that only remove one."""
    if edges.table:
        return Tree({name: group if group.removes else without_removals(group) for name, group in edges.table.items()}, edges.origin)
    return Tree([e for e in edges.items if e.text("remove") is None], edges.origin) if isinstance(edges.value, list) else edges


def strip_edges(holder: Tree, gone: frozenset[str], names: rewire.Names) -> Tree:
    edges = holder.table.get("edges")
    return holder if edges is None else Tree({**holder.table, "edges": rewire.strip(edges, gone, names)}, holder.origin)


def strip_addresses(tree: Tree, gone: frozenset[str]) -> Tree:
    """Stages whose `train`, `freeze` and `init` name no removed component, or a graph whose `ties` do not."""
    if not tree.table:
        return tree
    table = dict(tree.table)
    for key, value in table.items():
        if key in ("train", "freeze", "ties") and isinstance(value.value, list):
            table[key] = Tree([item for item in value.items if not addresses(item.value, gone)], value.origin)
        elif key == "init" and value.table:
            table[key] = Tree({k: v for k, v in value.table.items() if not addresses(k, gone)}, value.origin)
        elif key not in ("edges", "set"):
            table[key] = strip_addresses(value, gone)
    return Tree(table, tree.origin)


def addresses(text: object, gone: frozenset[str]) -> bool:
    """Whether an address, or a side of a tie, lies in one of the components."""
    return isinstance(text, str) and any(side.strip().partition(".")[0] in gone for side in text.split("="))


def removed(over: Tree) -> frozenset[str]:
    """Names of a scope that an overlay removes."""
    return frozenset(name for table in SCOPED if table in over.table for name, entry in over.table[table].table.items() if entry.removes)


def base_path(path: Path) -> Path:
    """The path inside the spec of a path inside one of its overlays."""
    return path[2:] if path and path[0] in ("sizes", "variants") else path


def pending(path: Path) -> bool:
    """Inside a size or variant that is itself being merged: a removal is a thing to do later, not now."""
    return len(path) > 2 and path[0] in ("sizes", "variants")


def holds_edges(path: Path) -> bool:
    path = base_path(path)
    return path == ("graph", "edges") or (len(path) == 3 and path[0] in ("objectives", "blocks") and path[2] == "edges")


def is_component(path: Path) -> bool:
    return len(path) >= 2 and path[-2] == "components" and (len(path) == 2 or path[0] == "blocks")


def is_block(path: Path) -> bool:
    path = base_path(path)
    return len(path) == 2 and path[0] == "blocks"


def is_slot(path: Path) -> bool:
    """A field of a component, or deeper."""
    path = base_path(path)
    return len(path) > 2 and (path[0] == "components" or (path[0] == "blocks" and len(path) > 4 and path[2] == "components"))


def introduces(component: Tree) -> bool:
    return any(key in component.table for key in ("type", "like", "copy"))


def kind(table: Tree) -> object:
    found = table.table.get("type")
    return found.value if found is not None else None


def number(tree: Tree) -> bool:
    return isinstance(tree.value, int) and not isinstance(tree.value, bool)


def layer(tree: Tree) -> str:
    origin = tree.origin
    return f"{origin.layer} {origin.name!r}" if origin.name else f"this {origin.layer}"


def dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def near(name: str, known: object) -> str | None:
    """The fix that names the nearest known name."""
    found = difflib.get_close_matches(name, list(known), 1)  # type: ignore[call-overload]
    return f"did you mean {found[0]!r}?" if found else None
