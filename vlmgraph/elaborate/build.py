"""The order of elaboration: tables → configs → nodes → edges → programs, objectives, stages."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import DimError
from ..ir.graph import Graph, Node
from ..ir.order import ordered
from ..ir.types import Type, parse_type
from ..spec import Spec
from .batches import Batches, batched
from .blocks import Use, block_entries, expand_blocks, place_part, place_use, unfed_ports
from .configs import Configs
from .copies import Components, open_copies, read_copies, shadow
from .declare import listed, read_objectives, read_programs, read_stages, read_ties
from .ends import idle_components, tokens_outside, unfed_outputs, unused_inputs
from .levels import lists_at_the_end, map_levels
from .names import Names, read_names
from .procedures import read_procedures
from .wiring import Scope, Wiring


def elaborate(spec: Spec, found: Collector | None = None) -> Graph | None:
    """The wired graph of a spec, types of values still those of the signatures.

    Problems go to `found`; the result is None when nothing sensible is left to look at.
    """
    found = found if found is not None else Collector()
    data = spec.data
    inputs = read_types(spec, "inputs", found)
    declared = read_types(spec, "outputs", found)
    check_owners(spec, inputs, declared, found)
    tokens = {k: v for k, v in table(data, "tokens").items() if isinstance(v, int) and not isinstance(v, bool)}
    components: Components = {id: (t, ("components", id)) for id, t in table(data, "components").items() if isinstance(t, Mapping)}
    blocks = {name: t for name, t in table(data, "blocks").items() if isinstance(t, Mapping)}
    opened, copies = open_copies(components)
    tables, uses = expand_blocks(spec, opened, blocks, found)
    configs = Configs(spec, found, tokens, tables)
    configs.build_all()
    wiring = Wiring(found, configs, inputs, declared, left_out=spec.lacks, copies=copies)
    place_nodes(spec, wiring, [id for id in components if id not in copies], uses)
    names_twice(spec, wiring)
    for path, text in edges_of(data):
        wiring.edge(text, spec.label(path), Scope())
    unfed_outputs(spec, wiring)
    objectives = read_objectives(spec, wiring)
    programs = read_programs(spec, wiring)
    places(spec, wiring, tables)
    nodes = wiring.nodes()
    names = Names(wiring, unfed_ports(wiring, read_names(wiring, nodes)))
    nodes = [names.node(node) for node in map_levels(wiring, nodes, names)]
    lists_at_the_end(wiring, names)
    shadows = [(copy, value, names.final(value)) for copy, value in wiring.shadows if not shadows_itself(wiring, copy, value, names)]
    copied, same = shadow(nodes, [(copy, final) for copy, _, final in shadows], copies)
    copied = [node for node in copied if not node.component or node.component in configs.built]  # what is wrong with the others is said
    wiring.aliases.update(same | {f"{copy}.{value}": f"{copy}.{final}" for copy, value, final in shadows if final != value})
    main: list[Node] = []
    own: dict[str, list[Node]] = {}
    whole = [names.node(node) for node in nodes] + copied
    batches = read_batches(spec, wiring, whole, names)
    of_batches = {alias: value for made in batches.values() for alias, value in made.aliases.items() if alias != value}
    wiring.aliases.update(of_batches)
    for node in [names.node(node) for node in whole] if batches else whole:
        loss = next((f"objective.{o}" for o in objectives if node.id == f"objective.{o}" or node.id.startswith(f"objective.{o}.")), "")
        if loss:
            own.setdefault(loss, []).append(node)
        else:
            main.append(node)
    rules = read_copies(components, tables, copies)
    used = {node.component for node in main}  # a copy whose values nobody reads is never made
    graph = Graph(
        name=str(table(data, "model").get("name", spec.name)),
        inputs=inputs,
        components={id: config for id, config in configs.built.items() if id not in rules or id in used},
        copies={id: rule for id, rule in rules.items() if id in used},
        nodes=tuple(main),
        aliases={
            alias: names.final(alias)
            for alias in wiring.aliases
            if alias not in wiring.entries and alias not in of_batches and names.final(alias) not in wiring.bundles
        },
        outputs=declared,
        programs=programs,
        objectives={
            name: replace(
                o,
                nodes=(*own.get(o.loss, ()), *(batches[name].nodes if name in batches else ())),
                inputs=batches[name].inputs if name in batches else {},
                rebind={k: v for k, s in o.rebind.items() if (v := names.source(s)) is not None},
            )
            for name, o in objectives.items()
        },
        stages=read_stages(spec, wiring, objectives),
        procedures=read_procedures(spec, wiring, programs),
        ties=read_ties(spec, wiring),
        tokens=tokens,
        expect=table(data, "expect"),
        entries=block_entries(wiring, names),
        labels=wiring.labels,
    )
    if not found.failed:
        unused_inputs(spec, graph, found)
        tokens_outside(spec, configs, found)
        idle_components(spec, graph, configs, found)
    if not main and not found.failed:
        found.add(Diagnostic(C.EMPTY_GRAPH, "the spec has no edges: there is nothing to compile", spec.label(("graph",), "", "key")))
    return ordered(graph, found)


def read_batches(spec: Spec, wiring: Wiring, nodes: Sequence[Node], names: Names) -> dict[str, Batches]:
    """By objective what its named batches add."""
    found: dict[str, Batches] = {}
    graph = [node for node in nodes if not node.id.startswith("objective.")]
    for objective in dict.fromkeys(o for o, _, _ in wiring.batched):
        wanted = [(batch, value, names.final(value)) for o, batch, value in wiring.batched if o == objective]
        shared = table(table(spec.data, "objectives"), objective).get("shared", [])
        found[objective] = batched(graph, wanted, wiring.inputs, listed(shared), f"objective.{objective}")
    return found


def names_twice(spec: Spec, wiring: Wiring) -> None:
    """Inputs that are called like a component or a node: an edge from one of them could mean either."""
    for id in (*wiring.drafts, *wiring.blocks):
        if id in wiring.inputs:
            section = "nodes" if id in table(spec.data, "nodes") else "components"
            at, other = spec.label((section, id), "named here", "key"), spec.label(("inputs", id), "and here", "key")
            text = f"{id!r} is an input and one of the {section}"
            wiring.found.add(Diagnostic(C.BAD_NAME, text, at, (other,) if other else (), fix="rename one of them"))


def shadows_itself(wiring: Wiring, copy: str, value: str, names: Names) -> bool:
    """`reference.y -> y`: the copy of a value that is that copy. Reported as the circle it is."""
    if not names.final(value).startswith(f"{copy}."):
        return False
    text = f"the graph goes round in a circle: {value} -> {copy}.{value} -> {value}"
    wiring.found.add(Diagnostic(C.CYCLE, text, wiring.labels.get(f"edge:{value}")))
    return True


def places(spec: Spec, wiring: Wiring, tables: Mapping[str, Any]) -> None:
    """Where things are declared, for later passes."""
    paths = {f"component:{id}": path for id, (_, path) in tables.items()}
    paths |= {f"field:{id}.{name}": (*path, name) for id, (given, path) in tables.items() for name in given}
    paths |= {f"input:{name}": ("inputs", name) for name in wiring.inputs} | {
        f"output:{name}": ("outputs", name) for name in wiring.declared
    }
    expect = table(spec.data, "expect")
    paths |= {f"expect:{name}": ("expect", name) for name in expect}
    for what in ("params", "active_params"):
        paths |= {f"expect:{what}.{name}": ("expect", what, name) for name in table(expect, what)}
    for key, path in paths.items():
        label = spec.label(path, "", "value" if key.startswith(("expect:", "field:")) else "key")
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
            spec.left_out.add((section, name))
    return types


def check_owners(spec: Spec, inputs: Mapping[str, Type], outputs: Mapping[str, Type], found: Collector) -> None:
    """`image[N in B, ...]`: the owner of a packed dim is a dim of some input, or an input (a grid) with one row for each owner."""
    dims = {symbol.name for type_ in inputs.values() for dim in type_.dims for symbol in dim.symbols()}
    for section, types in (("inputs", inputs), ("outputs", outputs)):
        for name, type_ in types.items():
            for dim, owner in type_.owners:
                if (owner in dims and owner != dim) or owner in inputs:
                    continue
                near = difflib.get_close_matches(owner, [*dims, *inputs], 1)
                text = f"{name}: {dim} is packed over {owner!r}, which is no dim of an input and no input"
                fix = f"did you mean {near[0]!r}?" if near and near[0] != dim else None
                found.add(Diagnostic(C.BAD_TYPE, text, spec.label((section, name), "packed here"), fix=fix))


def edges_of(data: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every edge with its path; `edges` is a list or a table of named lists."""
    edges = table(data, "graph").get("edges", [])
    if isinstance(edges, Mapping):
        return [
            (("graph", "edges", group, i), e) for group, listed in edges.items() if isinstance(listed, list) for i, e in enumerate(listed)
        ]
    return [(("graph", "edges", i), e) for i, e in enumerate(edges)] if isinstance(edges, list) else []


def place_nodes(spec: Spec, wiring: Wiring, components: Sequence[str], uses: Mapping[str, Use]) -> None:
    """Every component is a node of its own name; `[nodes]` adds further uses."""
    for id in components:
        place_part(spec, wiring, uses, id, id, spec.label(("components", id), "", "key"))
    for id, node in table(spec.data, "nodes").items():
        place_use(spec, wiring, uses, id, node, ("nodes", id))
