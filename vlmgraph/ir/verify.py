"""Whether a graph holds together: what every pass may rely on, and what a fact (`typed`, ...) promises on top of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ..diagnostics import Diagnostic
from ..diagnostics import codes as C
from .graph import CALL, COMPANIONS, FOLD, JOIN, OPS, SLICE, UNFOLD, Graph, Node
from .types import COMPATIBLE, Type

Problem = tuple[str, str]
"""A key of `graph.labels` and what is wrong there."""

STEPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    SLICE: (("x",), ()), FOLD: (("x",), ("count",)), JOIN: (("x",), ("count",)), UNFOLD: (("x", "like"), ("count",)),
}  # fmt: skip
"""Inputs and options of the operations that have no component."""


def verify(graph: Graph, facts: Iterable[str] = ()) -> list[Diagnostic]:
    """Everything that is wrong with a graph of which the `facts` are said to be true; empty for a good one. Never raises."""
    problems = list(structure(graph))
    if not problems:
        problems = [p for fact in facts for p in FACTS.get(fact, _nothing)(graph)]
    return [Diagnostic(C.INVALID_GRAPH, text, graph.labels.get(key)) for key, text in problems]


def structure(graph: Graph) -> Iterator[Problem]:
    """What holds after every pass: unique names, producers before users, ports and options that exist."""
    made: dict[str, str] = dict.fromkeys(graph.inputs, "the inputs")
    ids: set[str] = set()
    for node in graph.nodes:
        yield from well_formed(graph, node)
        if node.id in ids:
            yield f"node:{node.id}", f"a second node {node.id!r}"
        ids.add(node.id)
        for source in node.sources():
            if source not in made:
                yield f"node:{node.id}", f"{node.id} reads %{source}, which nothing before it makes"
        for value, _ in node.values():
            if value in made and made[value] != node.id:
                yield f"node:{node.id}", f"{node.id} makes %{value}, which {made[value]} makes already"
            made[value] = node.id
    yield from names(graph, made)


def well_formed(graph: Graph, node: Node) -> Iterator[Problem]:
    key = f"node:{node.id}"
    if node.op not in OPS:
        yield key, f"{node.id}: there is no operation {node.op!r}"
    elif not node.outputs:
        yield key, f"{node.id} has no output"
    elif node.op != CALL:
        inputs, options = STEPS[node.op]
        if node.component or tuple(node.inputs) != inputs or not all(isinstance(s, str) for s in node.inputs.values()):
            yield key, f"{node.id}: a {node.op} reads {' and '.join(inputs)}, and has no component"
        if any(not isinstance(node.options.get(option), int) for option in options):
            yield key, f"{node.id}: a {node.op} has the option {' and '.join(options)}"
    elif node.component not in graph.components:
        yield key, f"{node.id} is a call of {node.component!r}, which is not a component of the graph"
    else:
        yield from call(graph, node)


def call(graph: Graph, node: Node) -> Iterator[Problem]:
    key, config = f"node:{node.id}", graph.config(node)
    if node.facet not in (config.facets or ("",)):
        yield key, f"{node.id}: {config.kind} has no facet {node.facet!r}"
        return
    ports = config.signature(node.facet)
    for port, source in node.inputs.items():
        if port not in ports.inputs:
            yield key, f"{node.id}: {config.kind} has no input {port!r}"
        elif ports.inputs[port].list is isinstance(source, str):
            yield key, f"{node.id}.{port} takes {'a list of values' if ports.inputs[port].list else 'one value'}"
    for port in node.outputs:
        if port not in ports.outputs and not port.startswith("hidden."):
            yield key, f"{node.id}: {config.kind} has no output {port!r}"


def names(graph: Graph, made: Mapping[str, str]) -> Iterator[Problem]:
    """What is named beside the nodes: aliases, outputs, programs, objectives, copies, companions."""

    def known(value: str) -> bool:
        return graph.resolve(value) in made

    for alias in graph.aliases:
        if not known(alias):
            yield f"output:{alias}", f"{alias} names %{graph.resolve(alias)}, which nothing makes"
    for name, program in graph.programs.items():
        cuts = [cut for cut in program.inputs or () if cut not in graph.inputs]
        for value in (*program.outputs, *cuts):
            if not known(value):
                yield f"program:{name}", f"program {name} names %{value}, which nothing makes"
        for component in program.cache:
            if component not in graph.components:
                yield f"program:{name}", f"program {name} caches {component!r}, which is not a component of the graph"
    for id, copy in graph.copies.items():
        for component in (id, copy.of):
            if component not in graph.components:
                yield f"component:{id}", f"{id} is a copy of {copy.of}, but {component!r} is not a component of the graph"
    for name, objective in graph.objectives.items():
        yield from objective_names(graph, name, made)
        if objective.nodes and all(node.id != objective.loss for node in objective.nodes):
            yield f"node:{objective.loss}", f"objective {name} has no node {objective.loss!r}"
    for value, kinds in graph.companions.items():
        for kind in kinds:
            if kind not in COMPANIONS:
                yield f"node:{value}", f"%{value} carries {kind!r}, which no value carries"


def objective_names(graph: Graph, name: str, made: Mapping[str, str]) -> Iterator[Problem]:
    objective = graph.objectives[name]
    own = {value for node in objective.nodes for value, _ in node.values()}
    both = made.keys() | own | objective.inputs.keys()
    feeds = [source for s in objective.rebind.values() for source in ((s,) if isinstance(s, str) else s)]
    for source in [s for node in objective.nodes for s in node.sources()] + feeds:
        if graph.resolve(source) not in both:
            yield f"node:{objective.loss}", f"objective {name} reads %{source}, which nothing makes"
    for node in objective.nodes:
        yield from well_formed(graph, node)


# ---- facts that passes ensure


def typed(graph: Graph) -> Iterator[Problem]:
    """Every edge fits its port in kind and rank, and every shape step its operand."""
    types = graph.types()
    for node in graph.nodes:
        if node.op != CALL:
            yield from step(node, types)
            continue
        ports = graph.config(node).signature(node.facet)
        for port, source in node.inputs.items():
            wanted = ports.inputs[port]
            for value in (source,) if isinstance(source, str) else source:
                have = types.get(value)
                if have is None:
                    continue
                if not kinds_fit(have, wanted):
                    yield f"node:{node.id}", f"{node.id}.{port} takes {wanted}, %{value} is {have}"
                elif len(have.dims) != len(wanted.dims) and not (wanted.rest and len(have.dims) > len(wanted.dims)):
                    yield f"node:{node.id}", f"{node.id}.{port} takes {wanted}, %{value} is {have}: a fold is missing"


def kinds_fit(have: Type, wanted: Type) -> bool:
    return have.kind == wanted.kind or wanted.kind in COMPATIBLE.get(have.kind, ()) or wanted.rest


def step(node: Node, types: Mapping[str, Type]) -> Iterator[Problem]:
    source, out = node.inputs["x"], next(iter(node.outputs.values()))
    have = types.get(source) if isinstance(source, str) else None
    if have is None:
        return
    count = node.options.get("count", 1)
    change = {SLICE: -1 if "index" in node.options else 0, FOLD: 1 - count, JOIN: 1 - count, UNFOLD: count - 1}[node.op]
    if len(out.dims) != len(have.dims) + change:
        yield f"node:{node.id}", f"{node.id}: a {node.op} of {have} has not the dims of {out}"


def resolved(graph: Graph) -> Iterator[Problem]:
    """No field of a component that computes something waits to be inferred where its parameters depend on it."""
    used = {node.component for node in graph.nodes if node.op == CALL and node.inputs}
    for id in used:
        config = graph.components[id]
        ports = [config.signature(facet) for facet in (config.facets or ("",))]
        needed = {
            s.name for p in ports for t in (*p.inputs.values(), *p.outputs.values()) if not t.optional for d in t.dims for s in d.symbols()
        }
        for name in type(config).model_fields:
            if name in needed and getattr(config, name) is None:
                yield f"component:{id}", f"{id}.{name} is not inferred"


def carried(graph: Graph) -> Iterator[Problem]:
    """The companions of values that exist are values that exist."""
    made = {*graph.inputs, *(value for node in graph.nodes for value, _ in node.values())}
    for value, kinds in graph.companions.items():
        for kind, companion in kinds.items():
            if value in made and companion not in made and ".folded" not in companion:
                yield f"node:{value}", f"%{value} carries the {kind} %{companion}, which nothing makes"


def _nothing(graph: Graph) -> Iterator[Problem]:
    return iter(())


FACTS: Mapping[str, Callable[[Graph], Iterator[Problem]]] = {"typed": typed, "resolved": resolved, "carried": carried}

__all__ = ["FACTS", "verify"]
