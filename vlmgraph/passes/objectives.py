"""Checks every objective in its own slice: its loss, what it rebinds, what then fits or does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import Graph
from ..ir.order import sort_nodes
from .base import Pass
from .carry import Carry
from .infer import Infer
from .slice import rebind


@dataclass(frozen=True)
class Objectives(Pass):
    """Infers the types of each objective's slice; the main graph stays as it is."""

    name: ClassVar[str] = "objectives"
    requires: ClassVar[frozenset[str]] = frozenset({"typed"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        if found.failed:
            return graph  # follow-ups of what is reported already would only hide it
        for name, objective in graph.objectives.items():
            if not objective.nodes:
                continue
            _, stuck = sort_nodes([*(rebind(n, objective.rebind) for n in graph.nodes), *objective.nodes])
            label = graph.labels.get(f"node:{objective.loss}")
            if stuck:
                found.add(Diagnostic(C.CYCLE, f"objective {name!r} closes a circle through " + ", ".join(n.id for n in stuck[:4]), label))
                continue
            if objective.rebind:
                # feeds change shapes upstream: the whole slice is inferred from its wiring again
                continue
            own = replace(graph, nodes=tuple(objective.nodes), outputs={}, objectives={}, inputs=graph.types())
            Infer().run(Carry().run(own, found), found)
        return graph
