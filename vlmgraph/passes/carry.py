"""Wires what travels with tokens: mask, modality, positions, spans, grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..components.base import Ports
from ..diagnostics import Collector
from ..ir.dims import Dim, Symbol
from ..ir.graph import COMPANIONS, SLICE, Graph, Node
from ..ir.types import Type
from .base import Pass


@dataclass(frozen=True)
class Carry(Pass):
    """Feeds unfed companion ports from what their tokens carry. An explicit edge always wins."""

    name: ClassVar[str] = "carry"
    ensures: ClassVar[frozenset[str]] = frozenset({"carried"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        carried: dict[str, Mapping[str, str]] = {}
        nodes: dict[str, Node] = {}
        for node in graph.nodes:
            if node.op == SLICE:
                extra = _slice_companions(node, carried)
                nodes.update((n.id, n) for n in extra)
                nodes[node.id] = node
                continue
            ports = graph.config(node).signature(node.facet)
            node = _feed(node, ports, carried)
            nodes[node.id] = node
            _carry_on(node, ports, carried)
        used = {s for n in nodes.values() for s in n.sources()} | {n.id for n in graph.nodes}
        kept = tuple(n for n in nodes.values() if n.id in used)
        made = {value for n in kept for value, _ in n.values()} | set(graph.inputs)
        there = {v: {kind: c for kind, c in own.items() if graph.resolve(c) in made} for v, own in carried.items()}
        return replace(graph, nodes=kept, companions={v: own for v, own in there.items() if own}, wired=graph.nodes)


LEADING = Dim.of(Symbol("..."))
"""Stands for the token dim of a port that names no more than the width, `tokens[..., d]`: such ports keep all dims before it."""


def _feed(node: Node, ports: Ports, carried: Mapping[str, Mapping[str, str]]) -> Node:
    inputs = dict(node.inputs)
    default = next(iter(ports.inputs), "")
    for port in (*[p for p in node.inputs if p == default], *[p for p in node.inputs if p != default]):
        source = node.inputs[port]
        if not isinstance(source, str):
            continue
        for kind, value in carried.get(source, {}).items():
            for target in (f"{port}_{kind}", kind) if port == default else (f"{port}_{kind}",):
                if target in ports.inputs and target not in inputs:
                    inputs[target] = value
                    break
    return replace(node, inputs=inputs)


def _carry_on(node: Node, ports: Ports, carried: dict[str, Mapping[str, str]]) -> None:
    """What the outputs of a node carry: its own companion outputs, else those of the input whose token dim they keep."""
    default = next(iter(ports.outputs))
    own = {kind: f"{node.id}.{kind}" for kind in COMPANIONS if kind in ports.outputs and kind != default}
    for port, type_ in node.outputs.items():
        if port in own:
            continue
        kept: dict[str, str] = {}
        dim = _token_dim(type_)
        for name, in_type in ports.inputs.items():
            source = node.inputs.get(name)
            if isinstance(source, str) and dim is not None and _token_dim(in_type) == dim and name not in COMPANIONS:
                kept = dict(carried.get(source, {}))
                break
        if (dim is not None and kept.keys() | own.keys()) or port == default or port.startswith("hidden."):
            explicit = {kind: s for kind in COMPANIONS if isinstance(s := node.inputs.get(kind), str)} if _keeps(ports, dim) else {}
            found = {**kept, **explicit, **(own if port == default else {})}
            if found:
                carried[node.value(port)] = found


def _keeps(ports: Ports, dim: Dim | None) -> bool:
    """Whether an output of this token dim has the tokens of some input."""
    return dim is not None and any(_token_dim(t) == dim for n, t in ports.inputs.items() if n not in COMPANIONS)


def _token_dim(type_: Type) -> Dim | None:
    if type_.list or type_.kind not in ("tokens", "ids", "patches"):
        return None
    at = 1 if type_.kind == "ids" else 2
    if len(type_.dims) >= at:
        return type_.dims[-at]
    return LEADING if type_.rest else None


def _slice_companions(node: Node, carried: dict[str, Mapping[str, str]]) -> list[Node]:
    source = node.inputs["x"]
    if not isinstance(source, str) or "index" in node.options:
        return []
    made, kept = [], {}
    for kind, value in carried.get(source, {}).items():
        name = f"{value}{node.id[len(source) :]}"
        made.append(Node(name, SLICE, inputs={"x": value}, outputs=node.outputs, options=node.options))
        kept[kind] = name
    if kept:
        carried[node.id] = kept
    return made
