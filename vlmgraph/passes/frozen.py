"""What a program computes of its inputs alone, without anything that trains: parts that need no gradients and run once a sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ..ir.graph import CALL, Graph, Node
from ..ir.types import Type
from .slice import ProgramGraph


@dataclass(frozen=True)
class Split:
    """A program in two: `fronts` give features, each of its own inputs, row by row; `rest` reads these values beside its inputs."""

    fronts: tuple[ProgramGraph, ...]
    rest: ProgramGraph


def split_frozen(graph: Graph, program: ProgramGraph, frozen: Collection[str]) -> Split:
    """Cut a program behind its `frozen` components (ids): as far down as a value still is theirs alone and has one row for each row of the
    inputs it comes from. Steps that multiply nothing (tables that are read, masks) stay in the rest when nothing else stands before them.
    """
    seen = _values(graph, program, frozen)
    kept: dict[str, frozenset[str]] = {}
    makers = {value: node for node in program.nodes for value, _ in node.values()}
    wanted = {*program.outputs.values(), *program.carry.values()}
    for value, facts in seen.items():
        readers = [node for node in program.nodes if value in node.sources()]
        inner = [node for node in readers if any(v in seen and seen[v].rows for v, _ in node.values())]
        if facts.rows and (value in wanted or len(inner) < len(readers)):
            kept[value] = facts.roots
    types: dict[str, Type] = {**program.inputs, **{v: t for n in program.nodes for v, t in n.values()}}
    fronts = []
    for roots in dict.fromkeys(kept.values()):
        values = [v for v, own in kept.items() if own == roots]
        nodes = _upstream(program, makers, values, ())
        inputs = {name: type_ for name, type_ in program.inputs.items() if name in roots}
        fronts.append(ProgramGraph(f"{program.name}.frozen", inputs, tuple(nodes), {v: v for v in values}))
    rest = _upstream(program, makers, list(wanted), kept)
    read = {s for node in rest for s in node.sources()} | wanted
    inputs = {name: types[name] for name in (*program.inputs, *kept) if name in read}
    return Split(tuple(fronts), replace(program, inputs=inputs, nodes=tuple(rest)))


@dataclass(frozen=True)
class _Facts:
    """Of a value that only frozen parts made: the inputs it comes from, and whether it may be kept, a row for each of theirs."""

    roots: frozenset[str]
    works: bool
    rows: bool


def _values(graph: Graph, program: ProgramGraph, frozen: Collection[str]) -> Mapping[str, _Facts]:
    """What is known of the values that no trained component had a hand in."""
    found: dict[str, _Facts] = {}
    for node in program.nodes:
        if node.component in program.cache or not _still(graph, node, frozen):
            continue
        sources = list(node.sources())
        if not all(s in found or s in program.inputs for s in sources):
            continue
        roots = frozenset().union(*(found[s].roots if s in found else {s} for s in sources)) if sources else frozenset()
        works = any(s in found and found[s].works for s in sources) or (node.op == CALL and _multiplies(graph, node))
        leads = {program.inputs[name].dims[:1] for name in roots}
        for value, type_ in node.values():
            own = bool(roots) and works and not type_.list and not type_.rest and leads == {type_.dims[:1]} != {()}
            own = own and type_.dims[0] not in type_.dims[1:]  # scores of a batch with itself
            found[value] = _Facts(roots, works, own)
    return found


def _still(graph: Graph, node: Node, frozen: Collection[str]) -> bool:
    return node.op != CALL or (node.component in frozen and not graph.config(node).draws)


def _multiplies(graph: Graph, node: Node) -> bool:
    config = graph.config(node)
    return config.multiplies and config.role not in ("op", "loss", "")


def _upstream(program: ProgramGraph, makers: Mapping[str, Node], values: list[str], stop: Collection[str]) -> list[Node]:
    """The nodes that make the values, in order, without what makes those in `stop`."""
    needed: set[str] = set()
    open_ = [v for v in values if v not in stop]
    while open_:
        node = makers.get(open_.pop())
        if node is not None and node.id not in needed:
            needed.add(node.id)
            open_ += [s for s in node.sources() if s not in stop]
    return [node for node in program.nodes if node.id in needed]
