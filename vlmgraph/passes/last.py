"""The last position alone: a head that works row by row is given no other rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..ir.graph import CALL, SLICE, Graph, Node
from .slice import ProgramGraph


def last_position(graph: Graph, program: ProgramGraph, outputs: Iterable[str] = ("logits",)) -> ProgramGraph:
    """The program with `outputs` [B, 1, ...] of the last position, each cut in front of the head that makes it.

    An output stays as it was where anything else reads what that head gives, or where no such head makes it.
    """
    for output in outputs:
        program = _cut(graph, program, program.outputs.get(output, ""))
    return program


def _cut(graph: Graph, program: ProgramGraph, value: str) -> ProgramGraph:
    at = next((i for i, node in enumerate(program.nodes) if value in dict(node.values())), None)
    if at is None:
        return program
    head = program.nodes[at]
    read_elsewhere = any(value in node.sources() for node in program.nodes) or list(program.outputs.values()).count(value) > 1
    if head.op != CALL or read_elsewhere or value in program.carry.values() or len(head.inputs) != 1 or len(head.outputs) != 1:
        return program
    ((port, source),) = head.inputs.items()
    declared, type_ = graph.config(head).signature(head.facet).inputs[port], next(iter(head.outputs.values()))
    if not isinstance(source, str) or not (declared.rest and len(declared.dims) == 1) or len(type_.dims) != 3:
        return program  # a head that does more than map each row [..., width], or states that are no [B, T, width]
    cut = Node(f"{head.id}.last", SLICE, inputs={"x": source}, outputs={"out": type_}, options={"axis": 1, "start": -1})
    nodes = (*program.nodes[:at], cut, replace(head, inputs={port: cut.id}), *program.nodes[at + 1 :])
    return replace(program, nodes=nodes)
