"""Types every objective in its own slice: its loss, what it rebinds, what then fits or does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.graph import Graph, Node
from ..ir.order import owner, sort_nodes
from .base import Pass
from .carry import Carry
from .infer import Infer
from .slice import rebind


@dataclass(frozen=True)
class Objectives(Pass):
    """Infers the types of each objective's slice and the fields of components that only a loss uses; the nodes stay as they are."""

    name: ClassVar[str] = "objectives"
    requires: ClassVar[frozenset[str]] = frozenset({"typed"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        if found.failed:
            return graph  # follow-ups of what is reported already would only hide it
        for name, objective in graph.objectives.items():
            if objective.nodes:
                typed = objective_graph(graph, name, found) if objective.rebind else loss_graph(graph, name, found)
                own = {n.component: typed.components[n.component] for n in typed.nodes if n.component}
                graph = replace(graph, components={**graph.components, **own})
        return graph


def loss_graph(graph: Graph, name: str, found: Collector) -> Graph:
    """The nodes of an objective that feeds nothing of the graph otherwise, typed on top of the graph's own types."""
    objective = graph.objectives[name]
    nodes, _ = sort_nodes(objective.nodes)
    own = replace(graph, inputs={**graph.types(), **objective.inputs}, nodes=tuple(nodes), outputs={}, objectives={})
    return Infer(batches=True).run(Carry().run(own, found), found)


def objective_graph(graph: Graph, name: str, found: Collector) -> Graph:
    """What an objective's loss needs of a typed graph, with its feeds and its own nodes in place, typed anew.

    Feeds change shapes on the way, so nothing is taken from the graph's types but the fields of its components. The leading dims of
    the inputs (how many images, how many texts) are as equal here as the loss asks for. Problems go to `found`.
    """
    objective = graph.objectives[name]
    nodes, stuck = sort_nodes([*(rebind(n, objective.rebind) for n in graph.wired), *objective.nodes])
    if stuck:
        text = f"objective {name!r} closes a circle through " + ", ".join(n.id for n in stuck[:4])
        found.add(Diagnostic(C.CYCLE, text, graph.labels.get(f"node:{objective.loss}")))
        return graph
    alone = {name: replace(objective, nodes=(), rebind={})}
    labels = {**graph.labels, **feed_labels(graph, name)}
    inputs = {**graph.inputs, **objective.inputs}
    slice_ = replace(graph, inputs=inputs, nodes=tuple(needed(nodes, [objective.loss])), outputs={}, objectives=alone, labels=labels)
    return Infer(batches=True).run(Carry().run(slice_, found), found)


def feed_labels(graph: Graph, name: str) -> dict[str, Label]:
    """Places of an objective's own edges, under the names of the ports that they feed otherwise."""
    start = f"edge:{name}:"
    return {f"edge:{key.removeprefix(start)}": label for key, label in graph.labels.items() if key.startswith(start)}


def needed(nodes: Sequence[Node], values: Iterable[str]) -> list[Node]:
    """The nodes, in the given order, that the values depend on."""
    producer = {value: node.id for node in nodes for value, _ in node.values()}
    wanted = {p for v in values if (p := owner(v, producer))}
    kept = []
    for node in reversed(nodes):
        if node.id in wanted:
            wanted |= {p for s in node.sources() if (p := owner(s, producer))}
            kept.append(node)
    return kept[::-1]
