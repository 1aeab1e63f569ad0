"""Types every program in its own slice: all that it declares can be computed, and fits without what the slice leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import Graph, Program
from .base import Pass
from .carry import Carry
from .infer import Infer
from .objectives import needed
from .slice import MissingInput, ProgramGraph, output_name, slice_program


@dataclass(frozen=True)
class Programs(Pass):
    """Cuts every program out with all of its inputs given. A port that then lacks a feed, or an input that is a value cut in the middle,
    makes other equations than the graph's: that slice is inferred again. The graph stays as it is."""

    name: ClassVar[str] = "programs"
    requires: ClassVar[frozenset[str]] = frozenset({"typed"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        if found.failed:
            return graph
        carried = Carry().run(replace(graph, nodes=graph.wired), Collector())
        for name, program in graph.programs.items():
            try:
                cut = slice_program(carried, name)
            except MissingInput:
                cut = ProgramGraph(name, {}, (), {})
            lost = [value for value in program.outputs if output_name(carried, value) not in cut.outputs]
            for value in lost:
                found.add(unreachable(graph, name, program, value))
            if not lost and any(n.inputs != carried.by_id[n.id].inputs for n in cut.nodes):
                types = graph.types()
                inputs = {key: types[key] for key in cut.inputs}
                outputs = {key: type_ for key, type_ in graph.outputs.items() if key in cut.outputs}
                slice_ = replace(carried, inputs=inputs, nodes=cut.nodes, outputs=outputs, objectives={})
                Infer().run(slice_, found)
        return graph


def unreachable(graph: Graph, name: str, program: Program, value: str) -> Diagnostic:
    """What a declared output would need that the program does not have."""
    sources = {s for n in needed(graph.wired, [graph.resolve(value)]) for s in n.sources()}
    gone = [i for i in graph.inputs if i in sources and i in program.without]
    why = (f"it needs {', '.join(gone)}, which `without` leaves out",) if gone else ()
    return Diagnostic(C.PROGRAM_OUTPUT, f"program {name!r} cannot give {value}", graph.labels.get(f"program:{name}"), notes=why)
