"""Loose ends of a spec: outputs without an edge, inputs without a reader, ids without a row."""

from __future__ import annotations

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.graph import Graph
from ..ir.order import owner
from ..spec import Spec
from .configs import Configs
from .wiring import Wiring


def unfed_outputs(spec: Spec, wiring: Wiring) -> None:
    """Declared outputs that no edge ends in. What reads them has no value either, and is no finding of its own."""
    for name in wiring.declared:
        if name in wiring.aliases:
            continue
        wiring.aliases[name] = wiring.UNKNOWN
        if not any(path[:1] == ("graph",) for path in spec.left_out):
            at, fix = spec.label(("outputs", name), "", "key"), f'end an edge in it: "... -> {name}"'
            wiring.found.add(Diagnostic(C.OUTPUT_NOT_FED, f"output {name!r} is fed by no edge", at, fix=fix))


def unused_inputs(spec: Spec, graph: Graph, found: Collector) -> None:
    """Inputs that every caller must give and that are ignored. An optional one may be there for the sake of callers who have it."""
    nodes = [*graph.nodes, *(node for o in graph.objectives.values() for node in o.nodes)]
    read = {source for node in nodes for source in node.sources()} | set(graph.aliases.values())
    read |= {v for o in graph.objectives.values() for s in o.rebind.values() for v in ((s,) if isinstance(s, str) else s)}
    read |= {value for p in graph.programs.values() for value in (*p.outputs, *(p.inputs or ()))}
    for name, type_ in graph.inputs.items():
        if name not in read and not type_.optional:
            at = spec.label(("inputs", name), "", "key")
            text, fix = (
                f"input {name!r} is read by no edge and no loss",
                f'start an edge with it, "{name} -> ...", make it optional, or remove it',
            )
            found.add(Diagnostic(C.UNUSED_INPUT, text, at, fix=fix, severity="warning"))


def tokens_outside(spec: Spec, configs: Configs, found: Collector) -> None:
    """Ids of `[tokens]` that no vocabulary of the spec has a row for."""
    rows = {id: vocab + getattr(config, "added", 0) for id, config in configs.built.items() if (vocab := _vocabulary(config)) is not None}
    if not rows or configs.failed:
        return
    says = {id for id in rows if id in configs.tables and "vocab" in configs.tables[id][0]}
    largest = max(rows, key=lambda id: (rows[id], id in says))  # of equals the one that the others take it from
    path = configs.tables[largest][1] if largest in configs.tables else ()
    other = spec.label((*path, "vocab"), f"{largest} has the ids 0 to {rows[largest] - 1:,}", "key")
    for token, id in configs.tokens.items():
        if id >= rows[largest]:
            text = f"token {token!r} has the id {id:,}, and the largest vocabulary {rows[largest]:,} rows"
            fix = "take an id that has a row, or give the embedding `added` rows"
            at = spec.label(("tokens", token), "outside")
            found.add(Diagnostic(C.TOKEN_OUTSIDE, text, at, (other,) if other else (), fix=fix))


def _vocabulary(config: object) -> int | None:
    value = getattr(config, "vocab", None)
    return value if isinstance(value, int) else None


def idle_components(spec: Spec, graph: Graph, configs: Configs, found: Collector) -> None:
    """Components that no edge touches, with dims that only an edge could give: they could never be built."""
    nodes = [*graph.nodes, *(node for o in graph.objectives.values() for node in o.nodes)]
    rebound = {id for o in graph.objectives.values() for id, _ in o.rebind}
    producer = {value: node.id for node in nodes for value, _ in node.values()}
    read = {p for node in nodes for s in node.sources() if (p := owner(s, producer))}
    read |= {p for value in graph.aliases.values() if (p := owner(value, producer))}
    touched = {node.component for node in nodes if node.inputs or node.id in rebound | read}
    for id, config in graph.components.items():
        if id in touched or id not in configs.tables:
            continue
        ports = [config.signature(facet) for facet in (config.facets or ("",))]
        types = [t for p in ports for t in (*(t for t in p.inputs.values() if not t.optional), *p.outputs.values())]
        symbols = dict.fromkeys(s.name for t in types for d in t.dims for s in sorted(d.symbols()))
        missing = [name for name in symbols if name in type(config).model_fields and getattr(config, name) is None]
        if missing:
            at = spec.label(configs.tables[id][1], "no edge leads here", "key")
            text, fix = f"{id} is connected to nothing, and {id}.{missing[0]} follows from no edge", "add an edge, or remove the component"
            found.add(Diagnostic(C.CANNOT_INFER, text, at, fix=fix))
