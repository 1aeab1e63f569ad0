"""The order of elaboration: tables → configs → nodes → edges → programs, objectives, stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import DimError
from ..ir.graph import Graph, Node, Source
from ..ir.order import ordered
from ..ir.types import Type, parse_type
from ..spec import Spec
from .blocks import expand, expand_blocks
from .configs import Configs
from .declare import read_objectives, read_programs, read_stages, read_ties
from .procedures import read_procedures
from .wiring import Block, Scope, Wiring


def elaborate(spec: Spec, found: Collector | None = None) -> Graph | None:
    """The wired graph of a spec, types of values still those of the signatures.

    Problems go to `found`; the result is None when nothing sensible is left to look at.
    """
    found = found if found is not None else Collector()
    data = spec.data
    inputs = read_types(spec, "inputs", found)
    declared = read_types(spec, "outputs", found)
    tokens = {k: v for k, v in table(data, "tokens").items() if isinstance(v, int) and not isinstance(v, bool)}
    components = {id: (t, ("components", id)) for id, t in table(data, "components").items() if isinstance(t, Mapping)}
    blocks = {name: t for name, t in table(data, "blocks").items() if isinstance(t, Mapping)}
    tables, uses = expand_blocks(spec, components, blocks, found)
    configs = Configs(spec, found, tokens, tables)
    configs.build_all()
    wiring = Wiring(found, configs, inputs, declared)
    place_nodes(spec, wiring, components, uses)
    for path, text in edges_of(data):
        wiring.edge(text, spec.label(path), Scope())
    objectives = read_objectives(spec, wiring)
    programs = read_programs(spec, wiring)
    places(spec, wiring, tables)
    aliases = dict(wiring.aliases)
    main, own = [], {}
    for node in wiring.nodes():
        node = resolved(node, aliases)
        loss = next((f"objective.{o}" for o in objectives if node.id == f"objective.{o}" or node.id.startswith(f"objective.{o}.")), "")
        if loss:
            own.setdefault(loss, []).append(node)
        else:
            main.append(node)
    graph = Graph(
        name=str(table(data, "model").get("name", spec.name)),
        inputs=inputs,
        components=dict(configs.built),
        nodes=tuple(main),
        aliases={a: final(v, aliases) for a, v in aliases.items()},
        outputs=declared,
        programs=programs,
        objectives={
            name: o.__class__(o.loss, tuple(own.get(o.loss, ())), {k: map_source(v, aliases) for k, v in o.rebind.items()}, o.when)
            for name, o in objectives.items()
        },
        stages=read_stages(spec, wiring, objectives),
        procedures=read_procedures(spec, wiring, programs),
        ties=read_ties(spec, wiring),
        tokens=tokens,
        expect=table(data, "expect"),
        labels=wiring.labels,
    )
    if not main and not found.failed:
        found.add(Diagnostic(C.EMPTY_GRAPH, "the spec has no edges: there is nothing to compile", spec.label(("graph",), "", "key")))
    return ordered(graph, found)


def places(spec: Spec, wiring: Wiring, tables: Mapping[str, Any]) -> None:
    """Where things are declared, for later passes."""
    paths = {f"component:{id}": path for id, (_, path) in tables.items()}
    paths |= {f"input:{name}": ("inputs", name) for name in wiring.inputs} | {
        f"output:{name}": ("outputs", name) for name in wiring.declared
    }
    expect = table(spec.data, "expect")
    paths |= {f"expect:{name}": ("expect", name) for name in expect}
    paths |= {f"expect:params.{name}": ("expect", "params", name) for name in table(expect, "params")}
    for key, path in paths.items():
        label = spec.label(path, "", "value" if key.startswith("expect:") else "key")
        if label:
            wiring.labels[key] = label


def table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name, {})
    return value if isinstance(value, Mapping) else {}


def read_types(spec: Spec, section: str, found: Collector) -> dict[str, Type]:
    types: dict[str, Type] = {}
    for name, text in table(spec.data, section).items():
        if not isinstance(text, str):
            continue  # reported by the spec's own validation
        try:
            types[name] = parse_type(text)
        except DimError as error:
            found.add(Diagnostic(C.BAD_TYPE, str(error), spec.label((section, name), "not a type")))
    return types


def edges_of(data: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every edge with its path; `edges` is a list or a table of named lists."""
    edges = table(data, "graph").get("edges", [])
    if isinstance(edges, Mapping):
        return [
            (("graph", "edges", group, i), e) for group, listed in edges.items() if isinstance(listed, list) for i, e in enumerate(listed)
        ]
    return [(("graph", "edges", i), e) for i, e in enumerate(edges)] if isinstance(edges, list) else []


def place_nodes(spec: Spec, wiring: Wiring, components: Mapping[str, Any], uses: Mapping[str, str]) -> None:
    """Every component is a node of its own name; `[nodes]` adds further uses."""
    for id in components:
        if id in uses:
            expand(spec, wiring, id, id, uses[id])
        elif id in wiring.configs.built:
            config = wiring.configs.built[id]
            if not config.facets:
                wiring.add_node(id, id, label=spec.label(("components", id), "", "key"))
        else:
            wiring.broken.add(id)
    for id, node in table(spec.data, "nodes").items():
        if not isinstance(node, Mapping) or not isinstance(node.get("uses"), str):
            continue
        target, label = node["uses"], spec.label(("nodes", id, "uses"), "")
        options = {k: v for k, v in node.items() if k != "uses"}
        if target in uses:
            expand(spec, wiring, id, target, uses[target])
            continue
        component, facet = (target, "") if target in wiring.configs.tables else (target.rpartition(".")[0], target.rpartition(".")[2])
        if component not in wiring.configs.tables:
            import difflib

            near = difflib.get_close_matches(target, list(wiring.configs.tables), 1)
            wiring.found.add(
                Diagnostic(
                    C.UNKNOWN_NODE,
                    f"node {id!r} uses {target!r}, which is not a component",
                    label,
                    fix=f"did you mean {near[0]!r}?" if near else None,
                )
            )
            wiring.broken.add(id)
            continue
        config = wiring.configs.built.get(component)
        if config is None:
            wiring.broken.add(id)
            continue
        if facet and facet not in config.facets:
            wiring.found.add(
                Diagnostic(
                    C.UNKNOWN_FACET,
                    f"{component} has no facet {facet!r}",
                    label,
                    notes=("facets: " + (", ".join(config.facets) or "none"),),
                )
            )
            wiring.broken.add(id)
            continue
        for name in options:
            if name not in config.options:
                known = ", ".join(config.options) or "none"
                at = spec.label(("nodes", id, name), "", "key")
                wiring.found.add(
                    Diagnostic(C.UNKNOWN_OPTION, f"{config.kind} has no call option {name!r}", at, notes=(f"options: {known}",))
                )
        wiring.add_node(
            id, component, facet, {k: v for k, v in options.items() if k in config.options}, spec.label(("nodes", id), "", "key")
        )


def final(value: str, aliases: Mapping[str, str]) -> str:
    seen: set[str] = set()
    while value in aliases and value not in seen:
        seen.add(value)
        value = aliases[value]
    return value


def map_source(source: Source, aliases: Mapping[str, str]) -> Source:
    return final(source, aliases) if isinstance(source, str) else tuple(final(s, aliases) for s in source)


def resolved(node: Node, aliases: Mapping[str, str]) -> Node:
    from dataclasses import replace

    return replace(node, inputs={port: map_source(source, aliases) for port, source in node.inputs.items()})


__all__ = ["Block", "elaborate"]
