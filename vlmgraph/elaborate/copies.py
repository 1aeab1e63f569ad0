"""Copies of several components: `reference = { copy = ["vision", "llm", "head"] }` and the values of the slice they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..ir.graph import Copy, Node, Source
from ..ir.order import owner, sort_nodes

Path = tuple[str | int, ...]
Components = dict[str, tuple[Mapping[str, Any], Path]]


def open_copies(components: Components) -> tuple[Components, dict[str, frozenset[str]]]:
    """Components with each part of a copy of several as one of its own, `reference.llm`; and the parts of those copies."""
    opened: Components = {}
    parts: dict[str, frozenset[str]] = {}
    for id, (table, path) in components.items():
        copied = table.get("copy")
        if not isinstance(copied, list) or "type" in table:
            opened[id] = (table, path)
            continue
        parts[id] = frozenset(part for part in copied if isinstance(part, str))
        rest = {key: value for key, value in table.items() if key != "copy"}
        for i, part in enumerate(copied):
            if isinstance(part, str):
                source = components.get(part, ({}, ()))[0]
                block = str(source.get("type", "")).startswith("blocks.")
                opened[f"{id}.{part}"] = (source if block else {"copy": part, **rest}, (*path, "copy", i))
    return opened, parts


def read_copies(components: Components, tables: Components, parts: Mapping[str, frozenset[str]]) -> dict[str, Copy]:
    """The rule of every copied component, by its id."""
    found: dict[str, Copy] = {}
    for id, (table, _) in components.items():
        update = table.get("update")
        rule = update if isinstance(update, Mapping) else {}
        ema, when = rule.get("ema"), str(rule.get("when", "after"))
        if id in parts:
            for own in tables:
                if own.startswith(f"{id}."):
                    found[own] = Copy(own.removeprefix(f"{id}."), ema, when)
        elif isinstance(table.get("copy"), str):
            found[id] = Copy(table["copy"], ema, when)
    return found


def shadow(nodes: list[Node], wanted: Iterable[tuple[str, str]], parts: Mapping[str, frozenset[str]]) -> tuple[list[Node], dict[str, str]]:
    """The nodes of copied slices: every node that a wanted value needs and that depends on a copied part, once more over the copies.

    Returns them, and aliases for the wanted values that depend on no copied part: those are the values themselves.
    """
    ordered, _ = sort_nodes(nodes)
    producer = {value: node.id for node in ordered for value, _ in node.values()}
    made: list[Node] = []
    same: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for copy, value in wanted:
        values.setdefault(copy, []).append(value)
    for copy, listed in values.items():
        changed: set[str] = set()
        for node in ordered:
            own = any(node.component == part or node.component.startswith(f"{part}.") for part in parts[copy])
            if own or any(owner(source, producer) in changed for source in node.sources()):
                changed.add(node.id)
        needed = {p for value in listed if (p := owner(value, producer)) in changed}
        for node in reversed(ordered):
            if node.id in needed:
                needed |= {p for source in node.sources() if (p := owner(source, producer)) in changed}

        def renamed(source: str, copy: str = copy, changed: set[str] = changed) -> str:
            return f"{copy}.{source}" if owner(source, producer) in changed else source

        for node in ordered:
            if node.id not in needed:
                continue
            inputs: dict[str, Source] = {
                port: renamed(source) if isinstance(source, str) else tuple(renamed(s) for s in source)
                for port, source in node.inputs.items()
            }
            own = any(node.component == part or node.component.startswith(f"{part}.") for part in parts[copy])
            made.append(
                replace(node, id=f"{copy}.{node.id}", component=f"{copy}.{node.component}" if own else node.component, inputs=inputs)
            )
        same.update({f"{copy}.{value}": value for value in listed if owner(value, producer) not in changed})
    return made, same
