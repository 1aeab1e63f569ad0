"""Inner graphs: `[blocks.Z]` expanded in place, names prefixed with the user's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import DimError
from ..ir.types import Type, parse_type
from ..spec import Spec
from .wiring import Block, Scope, Wiring

Tables = dict[str, tuple[Mapping[str, Any], tuple[str | int, ...]]]

STRUCTURE = ("inputs", "outputs", "components", "nodes", "edges", "graph", "repeat", "fields")


def expand_blocks(spec: Spec, components: Tables, blocks: Mapping[str, Any], found: Collector) -> tuple[Tables, dict[str, str]]:
    """Component tables with inner ones added as `user.inner`, and which components are uses of which block."""
    tables: Tables = {}
    uses: dict[str, str] = {}

    def add(id: str, table: Mapping[str, Any], path: tuple[str | int, ...], inside: tuple[str, ...]) -> None:
        kind = table.get("type")
        name = kind.removeprefix("blocks.") if isinstance(kind, str) else ""
        if not isinstance(kind, str) or not kind.startswith("blocks."):
            tables[id] = (table, path)
            return
        if name not in blocks or name in inside:
            text = f"block {name!r} contains itself" if name in inside else f"there is no [blocks.{name}]"
            found.add(
                Diagnostic(
                    C.UNKNOWN_BLOCK, text, spec.label((*path, "type"), "used here"), notes=("blocks: " + (", ".join(blocks) or "none"),)
                )
            )
            return
        uses[id] = name
        block = blocks[name]
        fields = {k: v for k, v in block.items() if k not in STRUCTURE}
        fields.update({k: v for k, v in table.items() if k != "type"})
        inner = block.get("components", {})
        for part, own in inner.items() if isinstance(inner, Mapping) else ():
            if isinstance(own, Mapping):
                add(f"{id}.{part}", fill(own, fields), ("blocks", name, "components", part), (*inside, name))

    for id, (table, path) in components.items():
        add(id, table, path, ())
    return tables, uses


def fill(value: Any, fields: Mapping[str, Any]) -> Any:
    """Replace `$name` strings by the block's fields."""
    if isinstance(value, Mapping):
        return {k: fill(v, fields) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, fields) for v in value]
    if isinstance(value, str) and value.startswith("$") and value[1:] in fields:
        return fields[value[1:]]
    return value


def expand(spec: Spec, wiring: Wiring, id: str, component: str, name: str) -> None:
    """Place a use of a block: its nodes as `id.inner`, its ports as aliases `id.port`."""
    block = spec.data["blocks"][name]
    inner = block.get("components", {})
    prefix = f"{id}."
    ports: dict[str, Type] = {}
    for port, text in block.get("inputs", {}).items() if isinstance(block.get("inputs"), Mapping) else ():
        try:
            ports[port] = parse_type(text)
        except (DimError, TypeError) as error:
            wiring.found.add(Diagnostic(C.BAD_TYPE, str(error), spec.label(("blocks", name, "inputs", port), "not a type")))
    outputs = [o for o in block.get("outputs", []) if isinstance(o, str)] or ["out"]
    wiring.blocks[id] = Block(ports, outputs)
    for part, own in inner.items() if isinstance(inner, Mapping) else ():
        if not isinstance(own, Mapping):
            continue
        kind = own.get("type")
        if isinstance(kind, str) and kind.startswith("blocks."):
            expand(spec, wiring, f"{id}.{part}", f"{component}.{part}", kind.removeprefix("blocks."))
        else:
            wiring.add_node(f"{id}.{part}", f"{component}.{part}", label=spec.label(("blocks", name, "components", part), "", "key"))
    scope = Scope(prefix, frozenset(f"{id}.{p}" for p in ports) | frozenset(f"{id}.{o}" for o in outputs if o not in inner))
    for i, text in enumerate(block.get("edges", [])):
        wiring.edge(text, spec.label(("blocks", name, "edges", i)), scope)
    for output in outputs:
        alias = f"{id}.{output}"
        if output in inner and alias in wiring.blocks:
            inner_block = wiring.blocks[alias]
            wiring.aliases.setdefault(alias, f"{alias}.{inner_block.outputs[0]}")
    if outputs[0] not in inner or f"{id}.{outputs[0]}" in wiring.drafts or f"{id}.{outputs[0]}" in wiring.aliases:
        wiring.aliases[id] = f"{id}.{outputs[0]}"
