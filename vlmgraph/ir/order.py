"""Topological order, and cycles reported as the edges that close them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from .graph import Graph, Node


def owner(value: str, producer: Mapping[str, str]) -> str | None:
    """The id of the node that gives a value; taps (`vision.hidden.23`) belong to the node before `.hidden.`."""
    if value in producer:
        return producer[value]
    head, tap, _ = value.rpartition(".hidden.")
    return head if tap else None


def sort_nodes(nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Nodes with producers first, otherwise in the given order; and those caught in cycles. Linear time."""
    producer = {value: node.id for node in nodes for value, _ in node.values()}
    by_id = {node.id: node for node in nodes}
    needs = {n.id: {p for s in n.sources() if (p := owner(s, producer)) in by_id} for n in nodes}
    users: dict[str, list[str]] = {id: [] for id in by_id}
    for id, needed in needs.items():
        for p in needed:
            users[p].append(id)
    missing = {id: len(needed) for id, needed in needs.items()}
    ready = deque(id for id, count in missing.items() if not count)
    placed: list[Node] = []
    while ready:
        id = ready.popleft()
        placed.append(by_id[id])
        for user in users[id]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    return placed, [node for node in nodes if missing[node.id]]


def ordered(graph: Graph, found: Collector) -> Graph | None:
    """The graph in topological order; None when it has a cycle (reported)."""
    placed, stuck = sort_nodes(graph.nodes)
    if not stuck:
        return replace(graph, nodes=tuple(placed))
    caught = {n.id: n for n in stuck}
    producer = {value: node.id for node in stuck for value, _ in node.values()}
    path: list[str] = []
    at = stuck[0].id
    while at not in path:
        path.append(at)
        at = next(p for s in caught[at].sources() if (p := owner(s, producer)) in caught)
    cycle = [*path[path.index(at) :], at][::-1]
    labels = [label for key, label in graph.labels.items() if key.startswith("edge:") and key[5:].rpartition(".")[0] in cycle]
    first, others = (labels[0], labels[1:5]) if labels else (graph.labels.get(f"node:{at}"), [])
    shown = tuple(replace(o, text="and on here") for o in others)
    found.add(Diagnostic(C.CYCLE, "the graph goes round in a circle: " + " -> ".join(cycle), first, shown))
    return None
