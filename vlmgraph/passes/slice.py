"""Cuts a program out of the graph: what its outputs need, given which inputs are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..ir.graph import CALL, Graph, Node, Objective, Source
from ..ir.order import owner, sort_nodes
from ..ir.types import Type


@dataclass(frozen=True)
class ProgramGraph:
    """A program ready to be lowered: its nodes in order, what it reads and what it gives."""

    name: str
    inputs: Mapping[str, Type]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    """Output name → value."""
    cache: tuple[str, ...] = ()
    carry: Mapping[str, str] = field(default_factory=dict)
    """Carried name → value of this step that the next step receives under that name."""


class MissingInput(Exception):
    """A program called without an input it cannot do without."""

    def __init__(self, program: str, needed: list[str]) -> None:
        self.program, self.needed = program, needed
        super().__init__(f"program {program!r} needs {', '.join(needed)}")


def slice_program(graph: Graph, name: str, present: Iterable[str] | None = None, step: bool = False) -> ProgramGraph:
    """The nodes of a program that run when exactly the inputs `present` are given (None: all).

    `step` makes the decoding step: what the program carries enters as an input instead of being computed.
    Raises KeyError for an unknown program, MissingInput when no output can be computed.
    """
    if name.startswith("objective."):
        return _slice_objective(graph, name, present)
    program = graph.programs[name]
    inputs = {k: v for k, v in graph.inputs.items() if k not in program.without}
    nodes = {n.id: n for n in graph.nodes}
    types = graph.types()
    cuts: dict[str, str] = {}
    for cut in program.inputs or ():
        if cut not in graph.inputs:
            cuts[graph.resolve(cut)] = cut
            inputs[cut] = types[graph.resolve(cut)]
    if step:
        for entry in program.carry:
            head, _, port = entry.rpartition(".")
            if head in nodes and port in graph.config(nodes[head]).signature(nodes[head].facet).inputs:
                inputs[entry] = types[entry]
                nodes[head] = replace(nodes[head], inputs={**nodes[head].inputs, port: entry})
            else:
                value = graph.resolve(entry)
                cuts[value] = entry
                inputs[entry] = replace(types[value], optional=True)
    available = set(inputs if present is None else set(present) & inputs.keys())
    outputs = {output_name(graph, value): value for value in program.outputs}
    carry = {}
    for entry in program.carry:
        carry[entry] = graph.resolve(entry)
    made = _cut(
        graph,
        list(nodes.values()),
        available,
        cuts,
        {**outputs, **({} if step else carry), **{k: v for k, v in carry.items() if step and v not in cuts}},
    )
    kept, found = made
    have = {k: v for k, v in found.items() if k in outputs}
    if not have:
        missing = [k for k, t in inputs.items() if k not in available and not t.optional]
        raise MissingInput(name, missing or [k for k in inputs if k not in available])
    used = {s for n in kept for s in n.sources()} | set(found.values())
    return ProgramGraph(
        name, {k: inputs[k] for k in inputs if k in available and k in used}, tuple(kept), have,
        tuple(c for c in program.cache if any(n.component == c for n in kept)), {k: v for k, v in found.items() if k in carry},
    )  # fmt: skip


def _slice_objective(graph: Graph, name: str, present: Iterable[str] | None) -> ProgramGraph:
    objective: Objective = graph.objectives[name.partition(".")[2]]
    nodes = [rebind(n, objective.rebind) for n in graph.nodes]
    ordered, _ = sort_nodes([*nodes, *objective.nodes])
    available = set(graph.inputs if present is None else set(present) & graph.inputs.keys())
    kept, found = _cut(graph, ordered, available, {}, {"loss": objective.loss})
    if not found:
        raise MissingInput(name, [k for k in graph.inputs if k not in available])
    used = {s for n in kept for s in n.sources()}
    return ProgramGraph(name, {k: t for k, t in graph.inputs.items() if k in available and k in used}, tuple(kept), found)


def rebind(node: Node, feeds: Mapping[tuple[str, str], Source]) -> Node:
    """The node with the ports that an objective feeds otherwise."""
    changed = {port: source for (id, port), source in feeds.items() if id == node.id}
    return replace(node, inputs={**node.inputs, **changed}) if changed else node


def output_name(graph: Graph, value: str) -> str:
    """Outputs go by their declared name where they have one, else by their value's name; that of a block by the name of its use."""
    final = graph.resolve(value)
    names = [*graph.outputs, *(alias for alias in graph.aliases if final.startswith(f"{alias}."))]
    return next((name for name in names if graph.resolve(name) == final), value)


def _cut(
    graph: Graph, nodes: list[Node], available: set[str], cuts: Mapping[str, str], wanted: Mapping[str, str]
) -> tuple[list[Node], dict[str, str]]:
    """Forward: drop what cannot run. Backward: drop what nobody needs."""
    passed: dict[str, str] = {}  # value → the value that stands for it

    def current(value: str) -> str:
        value = graph.resolve(value)
        if value in cuts:
            return cuts[value]
        while value in passed:
            value = passed[value]
        return value

    have = set(available)
    runnable: list[Node] = []
    for node in nodes:
        if all(v in cuts for v, _ in node.values()):
            continue
        inputs: dict[str, Source] = {}
        whole = node.op == CALL and graph.config(node).whole
        for port, source in node.inputs.items():
            sources = (source,) if isinstance(source, str) else source
            fed = [c for s in sources if (c := current(s)) in have]
            if fed and (len(fed) == len(sources) or not whole):
                inputs[port] = fed[0] if isinstance(source, str) else tuple(fed)
        if node.op != CALL:
            if all(port in inputs for port in node.inputs):
                runnable.append(replace(node, inputs=inputs))
                have |= {v for v, _ in node.values()}
            continue
        config = graph.config(node)
        ports = config.signature(node.facet)
        through = config.bypass(frozenset(inputs))
        if through is not None and isinstance(inputs.get(through), str):
            passed[node.value()] = inputs[through]  # type: ignore[assignment]
            for port in ports.outputs:
                feed = inputs.get(port)
                if isinstance(feed, str) and node.value(port) != node.value():
                    passed[node.value(port)] = feed
            continue
        if any(port not in inputs and not type_.optional for port, type_ in ports.inputs.items()):
            continue
        if ports.inputs and not inputs:
            continue
        runnable.append(replace(node, inputs=inputs))
        gone = {node.value(port) for port in config.absent(frozenset(inputs))}
        have |= {v for v, _ in node.values()} - gone
    found = {name: c for name, value in wanted.items() if (c := current(value)) in have}
    producer = {value: n.id for n in runnable for value, _ in n.values()}
    needed: set[str] = set()
    values: set[str] = set(found.values())
    kept: list[Node] = []
    for node in reversed(runnable):
        given = {v for v, _ in node.values()}
        if given & values or node.id in needed:
            values |= set(node.sources())
            needed |= {p for s in node.sources() if (p := owner(s, producer))}
            kept.append(node)
    kept.reverse()
    return [_only_used(graph, node, values) for node in kept], found


def _only_used(graph: Graph, node: Node, values: set[str]) -> Node:
    """Outputs on request that nobody reads are not asked for. A stack whose default output nobody reads stops after its last tap."""
    lazy = graph.config(node).requested if node.op == CALL else ()
    if any(port in lazy for port in node.outputs):
        node = replace(node, outputs={p: t for p, t in node.outputs.items() if p not in lazy or node.value(p) in values})
    taps = [p for p in node.outputs if p.startswith("hidden.")]
    if not taps:
        return node
    outputs = {p: t for p, t in node.outputs.items() if node.value(p) in values or (p in taps and f"{node.id}.{p}" in values)}
    first = next(iter(node.outputs))
    if first not in outputs:
        # the default output keeps its place so that value names do not shift, but is not computed
        outputs = {first: node.outputs[first], **outputs}
        return replace(node, outputs=outputs, options={**node.options, "until": True})
    return replace(node, outputs=outputs)
