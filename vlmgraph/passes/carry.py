"""Wires what travels with tokens: mask, modality, positions, spans, grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..components.base import Component, Ports
from ..components.op.carried import ConcatCarried
from ..diagnostics import Collector
from ..ir.dims import Dim, Symbol
from ..ir.graph import CALL, COMPANIONS, SLICE, Graph, Node
from ..ir.types import Type
from .base import Pass


@dataclass(frozen=True)
class Carry(Pass):
    """Feeds unfed companion ports from what their tokens carry. An explicit edge always wins."""

    name: ClassVar[str] = "carry"
    ensures: ClassVar[frozenset[str]] = frozenset({"carried"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        # values that enter a slice bring what they carry in the whole graph
        carried: dict[str, Mapping[str, str]] = {v: own for v, own in graph.companions.items() if v in graph.inputs}
        nodes: dict[str, Node] = {}
        components = dict(graph.components)
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
            if graph.config(node).joins:
                extra = _joined(node, ports, carried, components, {*nodes, *graph.by_id})
                nodes.update((n.id, n) for n in extra)
        kept = _read(nodes, graph)
        used = {n.component for n in kept}
        components = {id: config for id, config in components.items() if id in graph.components or id in used}
        made = {value for n in kept for value, _ in n.values()} | set(graph.inputs)
        there = {v: {kind: c for kind, c in own.items() if graph.resolve(c) in made} for v, own in carried.items()}
        return replace(graph, nodes=kept, components=components, companions={v: own for v, own in there.items() if own}, wired=graph.nodes)


JOINED = ("mask", "modality", "spans")
"""Companions that stand one behind the other where their tokens do. Positions are counted anew, a grid describes one value alone."""

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
            if source is not None and dim is not None and _token_dim(in_type) == dim and name not in COMPANIONS:
                # the values of a list (of a sum, say) have the same tokens: of each kind the first that there is
                for value in (source,) if isinstance(source, str) else source:
                    kept = {**carried.get(value, {}), **kept}
                break
        if (dim is not None and kept.keys() | own.keys()) or port == default or port.startswith("hidden."):
            explicit = {k: s for k in COMPANIONS if isinstance(s := node.inputs.get(k), str) and _keeps(ports, dim, k)}
            found = {**kept, **explicit, **(own if port == default else {})}
            if found:
                carried[node.value(port)] = found


def _keeps(ports: Ports, dim: Dim | None, kind: str) -> bool:
    """Whether what is fed to the companion port `kind` also describes an output of this token dim: where the port itself speaks of these
    tokens (a mask of the patches that an image is cut into), or some input has them and the port does not speak of another's (a mask of
    words beside an image)."""
    if dim is None:
        return False
    spoken = ports.inputs[kind].dims[-1:] if kind == "mask" else ()
    held = {_token_dim(t) for n, t in ports.inputs.items() if n not in COMPANIONS}
    return spoken == (dim,) or (dim in held and not held.intersection(spoken))


def _token_dim(type_: Type) -> Dim | None:
    """The dim that counts tokens; of a list port that of each of its values."""
    if type_.kind not in ("tokens", "ids", "patches"):
        return None
    at = 1 if type_.kind == "ids" else 2
    if len(type_.dims) >= at:
        return type_.dims[-at]
    return LEADING if type_.rest else None


def _joined(
    node: Node, ports: Ports, carried: dict[str, Mapping[str, str]], components: dict[str, Component], taken: set[str]
) -> list[Node]:
    """Nodes that join what the values of a list carry, where they are put one behind the other.

    Every value keeps ports of its own there, so that one that a program leaves out takes what it carries along.
    """
    source = node.inputs.get(next(iter(ports.inputs)), ())
    values = (source,) if isinstance(source, str) else source
    made, kept = [], {}
    for kind in JOINED:
        given = [carried.get(value, {}).get(kind) for value in values]
        if not any(given):
            continue
        config = ConcatCarried(carried=kind, count=len(values))
        name, i = f"{node.id}_{kind}", 1
        while name in taken or components.get(name, config) != config:
            name, i = f"{node.id}_{kind}_{i}", i + 1
        inputs = {f"x{i}": value for i, value in enumerate(values)} | {f"given{i}": value for i, value in enumerate(given) if value}
        made.append(Node(name, CALL, name, inputs=inputs, outputs=config.signature().outputs))
        components[name], kept[kind] = config, name
    if kept:
        carried[node.id] = kept
    return made


def _read(nodes: Mapping[str, Node], graph: Graph) -> tuple[Node, ...]:
    """The nodes without companions that nobody reads."""
    own = {n.id for n in graph.nodes}
    used: set[str] = set()
    kept: list[Node] = []
    for node in reversed(list(nodes.values())):
        if node.id in own or node.id in used:
            used |= set(node.sources())
            kept.append(node)
    return tuple(kept[::-1])


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
