"""Inner graphs: `[blocks.Z]` expanded in place, names prefixed with the user's id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.dims import DimError
from ..ir.graph import Entry
from ..ir.types import Type, parse_type
from ..spec import Spec
from ..spec.edges import EdgeError, Endpoint, parse_edge
from ..spec.overlay import near
from .names import Names
from .wiring import Block, Broken, Scope, Wiring

Path = tuple[str | int, ...]
Tables = dict[str, tuple[Mapping[str, Any], Path]]

STRUCTURE = ("inputs", "outputs", "components", "nodes", "edges", "graph", "repeat", "fields")
MAX_REPEAT = 1000
MAX_PARTS = 10_000
"""Components that a spec may come to: blocks inside blocks multiply."""


@dataclass(frozen=True)
class Use:
    """One use of a block: the values of its `$fields`, and how many copies with own parameters stand in a row (0: one, no row)."""

    name: str
    fields: Mapping[str, Any]
    repeat: int = 0


class TooMany(Exception):
    """Carries the finding about blocks that multiply beyond what anything means."""


def expand_blocks(spec: Spec, components: Tables, blocks: Mapping[str, Any], found: Collector) -> tuple[Tables, dict[str, Use]]:
    """Component tables with inner ones added as `user.inner`, and which components are uses of which block."""
    tables: Tables = {}
    uses: dict[str, Use] = {}

    def add(id: str, table: Mapping[str, Any], path: Path, inside: tuple[str, ...]) -> None:
        kind = table.get("type")
        name = kind.removeprefix("blocks.") if isinstance(kind, str) else ""
        if not isinstance(kind, str) or not kind.startswith("blocks."):
            tables[id] = (table, path)
            return
        if name not in blocks or name in inside:
            unknown_block(spec, found, name, blocks, spec.label((*path, "type"), "used here"), circle=name in inside)
            return
        block = blocks[name]
        fields = block_fields(spec, found, name, block, {k: v for k, v in table.items() if k not in ("type", "repeat")}, path)
        count = fill(table.get("repeat", block.get("repeat", 0)), fields)
        uses[id] = use = Use(name, fields, repeats(count, spec.label((*path, "repeat"), "here"), found))
        for place in steps(id, use):
            if len(tables) + len(uses) > MAX_PARTS:
                text = f"the blocks of this spec come to more than {MAX_PARTS:,} components"
                at = spec.label((*path, "type"), "reached here")
                raise TooMany(Diagnostic(C.WRONG_VALUE, text, at, fix="repeat them fewer times"))
            for inner, own in part(block, "components").items():
                if isinstance(own, Mapping):
                    add(f"{place}.{inner}", fill(own, fields), ("blocks", name, "components", inner), (*inside, name))

    try:
        for id, (table, path) in components.items():
            add(id, table, path, ())
    except TooMany as error:
        found.add(*error.args)
        whole = {id: own for id, own in components.items() if not str(own[0].get("type")).startswith("blocks.")}
        return whole, {}  # uses of blocks are broken
    return tables, uses


def unknown_block(spec: Spec, found: Collector, name: str, blocks: Mapping[str, Any], at: Label | None, circle: bool = False) -> None:
    """A use of a block that is not there, or of one that it stands in."""
    if name not in blocks and spec.lacks("blocks", name):
        return
    text = f"block {name!r} contains itself" if circle else f"there is no [blocks.{name}]"
    note = "blocks: " + (", ".join(blocks) or "none")
    found.add(Diagnostic(C.UNKNOWN_BLOCK, text, at, notes=(note,), fix=None if circle else near(name, blocks)))


def block_fields(spec: Spec, found: Collector, name: str, block: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The values of a block's `$fields` in a use that stands at `path`: its defaults, with what is given over them."""
    fields = {**{k: v for k, v in block.items() if k not in STRUCTURE}, **part(block, "fields")}
    for field in [k for k in given if k not in fields]:
        unknown_field(found, name, field, fields, spec.label((*path, field), "unknown field", "key"))
    fields |= {k: v for k, v in given.items() if k in fields}
    for place, field in asked(block, ("blocks", name)):
        if field not in fields:
            unknown_field(found, name, field, fields, spec.label(place, "asked for here"))
            fields[field] = None
    return fields


def unknown_field(found: Collector, block: str, field: str, known: Mapping[str, Any], at: Label | None) -> None:
    note = "fields: " + (", ".join(known) or "none")
    found.add(Diagnostic(C.UNKNOWN_FIELD, f"block {block!r} has no field {field!r}", at, notes=(note,), fix=near(field, known)))


def asked(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Where the texts of a block ask for which `$field`."""
    if isinstance(value, str):
        yield from ((path, name) for name in _FIELD.findall(value))
    for key, child in value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ():
        yield from asked(child, (*path, key))


def steps(id: str, use: Use) -> list[str]:
    """The prefixes of a use's inner names: `co.0`, `co.1`, ... of a row."""
    return [f"{id}.{i}" for i in range(use.repeat)] or [id]


def repeats(value: Any, at: Label | None, found: Collector) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPEAT:
        found.add(Diagnostic(C.WRONG_VALUE, f"`repeat` is a number from 1 to {MAX_REPEAT}, not {value!r}", at))
        return 0
    return value


def part(block: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = block.get(key, {})
    return value if isinstance(value, Mapping) else {}


_FIELD = re.compile(r"\$([a-z_][a-z0-9_]*)")


def fill(value: Any, fields: Mapping[str, Any]) -> Any:
    """Put the block's fields in for `$name`: alone the value itself, inside a longer text its text."""
    if isinstance(value, Mapping):
        return {k: fill(v, fields) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, fields) for v in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    if value.startswith("$") and value[1:] in fields:
        return fields[value[1:]]
    return _FIELD.sub(lambda m: str(fields[m[1]]) if isinstance(fields.get(m[1]), (str, int, float)) else m[0], value)


# ---- nodes


def place_part(spec: Spec, wiring: Wiring, uses: Mapping[str, Use], id: str, component: str, label: Label | None) -> None:
    """The node that a component is by itself, or the nodes of the block that it is a use of."""
    if component in uses:
        expand(spec, wiring, uses, id, component, label)
    elif component in wiring.configs.built:
        if not wiring.configs.built[component].facets:
            wiring.add_node(id, component, label=label)
    else:
        wiring.broken.add(id)


def place_use(spec: Spec, wiring: Wiring, uses: Mapping[str, Use], id: str, node: Any, path: Path, prefix: str = "") -> None:
    """Another use of a component, of a facet or of a block: an entry of `[nodes]`. `prefix` is that of a block's components."""
    if not isinstance(node, Mapping) or not isinstance(node.get("uses"), str):
        return
    configs = wiring.configs
    target, label = prefix + node["uses"], spec.label((*path, "uses"), "")
    here = spec.label(path, "", "key")
    if target in uses:
        expand(spec, wiring, uses, id, target, here)
        return
    component, facet = (target, "") if target in configs.tables else (target.rpartition(".")[0], target.rpartition(".")[2])
    if component not in configs.tables:
        known = [name.removeprefix(prefix) for name in (*configs.tables, *uses) if name.startswith(prefix)]
        close = difflib.get_close_matches(node["uses"], known, 1)
        text = f"node {id!r} uses {node['uses']!r}, which is not a component"
        wiring.broken.add(id)
        if not wiring.left_out("components", target.partition(".")[0]):
            fix = f"did you mean {close[0]!r}?" if close else None
            wiring.found.add(Diagnostic(C.UNKNOWN_NODE, text, label, fix=fix))
        return
    config = configs.built.get(component)
    if config is None:
        wiring.broken.add(id)
        return
    if facet and facet not in config.facets:
        note = "facets: " + (", ".join(config.facets) or "none")
        wiring.found.add(Diagnostic(C.UNKNOWN_FACET, f"{component} has no facet {facet!r}", label, notes=(note,)))
        wiring.broken.add(id)
        return
    options = {k: v for k, v in node.items() if k != "uses"}
    for name in options:
        if name not in config.options:
            known_options = ", ".join(config.options) or "none"
            at = spec.label((*path, name), "", "key")
            text = f"{config.kind} has no call option {name!r}"
            wiring.found.add(Diagnostic(C.UNKNOWN_OPTION, text, at, notes=(f"options: {known_options}",)))
    wiring.add_node(id, component, facet, {k: v for k, v in options.items() if k in config.options}, here)


def expand(spec: Spec, wiring: Wiring, uses: Mapping[str, Use], id: str, component: str, label: Label | None) -> None:
    """Place a use of a block: its nodes as `id.inner`; its inputs are aliases that edges from outside fill."""
    use = uses[component]
    row = steps(id, use)
    for step, own in zip(row, steps(component, use)):
        expand_once(spec, wiring, uses, step, own, use, label)
    if not use.repeat:
        return
    first = wiring.blocks[row[0]]
    inputs = {port: f"{id}.{port}" for port in first.inputs}
    chained = {port: port for port in first.inputs if port in first.outputs}
    if not chained and first.inputs and first.outputs:
        chained = {next(iter(first.inputs)): next(iter(first.outputs))}
    for i, step in enumerate(row):
        for port, alias in wiring.blocks[step].inputs.items():
            wiring.aliases[alias] = wiring.blocks[row[i - 1]].outputs[chained[port]] if i and port in chained else inputs[port]
    wiring.blocks[id] = Block(inputs, dict(wiring.blocks[row[-1]].outputs), first.types, label, row=True)
    wiring.entries |= set(inputs.values())
    wiring.lists |= {inputs[port] for port, type_ in first.types.items() if type_.list}
    name_use(wiring, id)


def expand_once(spec: Spec, wiring: Wiring, uses: Mapping[str, Use], id: str, component: str, use: Use, label: Label | None) -> None:
    block = spec.data["blocks"][use.name]
    here: Path = ("blocks", use.name)
    prefix = f"{id}."
    types: dict[str, Type] = {}
    for port, text in part(block, "inputs").items():
        try:
            types[port] = parse_type(fill(text, use.fields))
        except (DimError, TypeError) as error:
            wiring.found.add(Diagnostic(C.BAD_TYPE, str(error), spec.label((*here, "inputs", port), "not a type")))
    inputs = {port: prefix + port for port in types}
    for port, alias in inputs.items():
        wiring.note(f"declared:{alias}", spec.label((*here, "inputs", port), "declared here"))
    wiring.blocks[id] = made = Block(inputs, {}, types, label)
    wiring.entries |= set(inputs.values())
    wiring.lists |= {inputs[port] for port, type_ in types.items() if type_.list}
    inner = {name for name, own in part(block, "components").items() if isinstance(own, Mapping)}
    for name in part(block, "components"):
        if name in inner:
            place = spec.label((*here, "components", name), "", "key")
            place_part(spec, wiring, uses, prefix + name, f"{component}.{name}", place)
    for name, own in part(block, "nodes").items():
        place_use(spec, wiring, uses, prefix + name, fill(own, use.fields), (*here, "nodes", name), f"{component}.")
        inner.add(name)
    outputs = block.get("outputs") or ["out"]
    # an output by the name of an inner part is that part; any other one of a list is written by an edge
    named = outputs if isinstance(outputs, Mapping) else {o: o for o in outputs if isinstance(o, str)}
    ends = {} if isinstance(outputs, Mapping) else {o: f"{prefix}{o}.out" if o in inputs else prefix + o for o in named if o not in inner}
    scope = Scope(prefix, frozenset([*inputs.values(), *ends.values()]), ends=ends)
    graph = part(block, "graph")
    for path, listed in (((*here, "edges"), block.get("edges")), ((*here, "graph", "edges"), graph.get("edges"))):
        for key, text in edges_of(listed, path):
            wiring.edge(fill(text, use.fields), spec.label(key), scope)
    for name, text in named.items():
        at = spec.label((*here, "outputs", name if isinstance(outputs, Mapping) else outputs.index(name)), "declared here")
        value = ends.get(name) or inner_value(wiring, text, at, scope) or wiring.UNKNOWN
        if name in ends and value not in wiring.aliases:
            said = f"output {name!r} of block {use.name!r} is fed by no edge"
            wiring.found.add(Diagnostic(C.OUTPUT_NOT_FED, said, at, fix=f'end an edge in it: "... -> {name}"'))
            value = wiring.UNKNOWN
        made.outputs[name] = value  # type: ignore[index]
        if name not in inputs and name not in inner and value != prefix + name:
            wiring.aliases[prefix + name] = value
    name_use(wiring, id)


def edges_of(edges: Any, path: Path) -> list[tuple[Path, Any]]:
    """Every edge of a list, or of named lists, with its place."""
    if isinstance(edges, Mapping):
        return [found for group, listed in edges.items() for found in edges_of(listed, (*path, group))]
    return [((*path, i), edge) for i, edge in enumerate(edges)] if isinstance(edges, list) else []


def inner_value(wiring: Wiring, text: Any, at: Label | None, scope: Scope) -> str | None:
    """The value inside a block that one of its outputs names (`t`, `vision.hidden[-2]`)."""
    try:
        chain = parse_edge(str(text))
        end = chain.links[0]
        if len(chain.links) == 1 and isinstance(end, Endpoint):
            return wiring.sources(end, at, scope, None, first=True)[0]
        wiring.found.add(Diagnostic(C.BAD_EDGE, f"{text!r} is not one value", at))
    except EdgeError as error:
        wiring.found.add(Diagnostic(C.BAD_EDGE, str(error), at))
    except Broken:
        pass
    return None


def name_use(wiring: Wiring, id: str) -> None:
    """A use is known by its first output: programs and the processor name it so."""
    outputs = wiring.blocks[id].outputs
    if outputs:
        wiring.aliases[id] = next(iter(outputs.values()))


def block_entries(wiring: Wiring, names: Names) -> tuple[Entry, ...]:
    """The declared inputs of every use of a block, with the values that feed them."""
    found = []
    for id, block in wiring.blocks.items():
        for port, type_ in block.types.items() if not block.row else ():
            alias = block.inputs[port]
            values = tuple(names.values(alias))
            if values and values != (alias,) and wiring.UNKNOWN not in values:
                at = wiring.labels.get(f"edge:{alias}") or wiring.labels.get(f"edge:{wiring.aliases.get(alias, '')}") or block.label
                wiring.note(f"edge:{alias}", at)
                found.append(Entry(alias, id, type_, values))
    return tuple(found)


def unfed_ports(wiring: Wiring, used: set[str]) -> set[str]:
    """Inputs of blocks that some inner port reads and nothing outside feeds; those that are not optional are reported."""
    absent: set[str] = set()
    for id, block in wiring.blocks.items():
        for port, alias in block.inputs.items():
            if alias not in used or alias in wiring.aliases or alias in wiring.bundles:
                continue
            absent.add(alias)
            if not block.types[port].optional:
                text = f"{id} needs {port}: {block.types[port]}, but no edge leads there"
                fix = f'add an edge "... -> {id}.{port}"'
                wiring.found.add(Diagnostic(C.DANGLING_PORT, text, block.label, fix=fix))
    return absent
