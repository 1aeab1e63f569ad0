"""The text form of a graph: one line a thing, parses back to an equal graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .dims import Dim, Symbol
from .graph import CALL, Graph, Node, Source
from .parse import TextError, parse_graph
from .types import Type

if TYPE_CHECKING:
    from ..components.base import Config


def print_graph(graph: Graph) -> str:
    """One line for every name of the graph; `parse_graph` reads an equal graph back."""
    lines = [f"graph {json.dumps(graph.name)}"]
    lines += [f"token {json.dumps(name)} = {id}" for name, id in graph.tokens.items()]
    lines += [f"input {name}: {type_}" for name, type_ in graph.inputs.items()]
    lines += [f"component {id} = {config.kind} {dump(to_fields(config))}" for id, config in graph.components.items()]
    lines += [f"copy {id} = {c.of} {dump({} if c.ema is None else {'ema': c.ema, 'when': c.when})}" for id, c in graph.copies.items()]
    lines += [print_node(node) for node in graph.nodes]
    lines += [f"carries %{value} {dump(kinds)}" for value, kinds in graph.companions.items()]
    lines += [f"alias {name} = %{value}" for name, value in graph.aliases.items()]
    lines += [f"output {name}: {type_}" for name, type_ in graph.outputs.items()]
    lines += [f"tie {left} = {right}" for left, right in graph.ties]
    for name, p in graph.programs.items():
        fields: dict[str, Any] = {
            "outputs": p.outputs,
            "inputs": p.inputs,
            "without": p.without,
            "cache": p.cache,
            "carry": p.carry,
            "options": p.options,
        }
        lines.append(f"program {name} {dump({k: v for k, v in fields.items() if v})}")
    for name, o in graph.objectives.items():
        rebind = [[id, port, source] for (id, port), source in o.rebind.items()]
        fields = {"loss": o.loss, "rebind": rebind, "when": o.when, **({"inputs": o.inputs} if o.inputs else {})}
        lines.append(f"objective {name} {dump(fields)}")
        lines += [f"  {print_node(node)}" for node in o.nodes]
    for name, s in graph.stages.items():
        fields = {"train": s.train, "freeze": s.freeze, "objectives": s.objectives, "init": s.init, "after": s.after}
        lines.append(f"stage {name} {dump(fields)}")
    lines += [f"inference {name} = {p.kind} {dump(to_fields(p))}" for name, p in graph.procedures.items()]
    if graph.expect:
        lines.append(f"expect {dump(graph.expect)}")
    return "\n".join(lines) + "\n"


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": "), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_node(node: Node) -> str:
    outputs = ", ".join(f"{port}: {with_unknowns(type_)}" for port, type_ in node.outputs.items())
    inputs = ", ".join(f"{port}={print_source(source)}" for port, source in node.inputs.items())
    target = f"{node.component}{'@' + node.facet if node.facet else ''}" if node.op == CALL else ""
    head = f"{node.id} := {node.op} {target}".rstrip()
    options = f" {dump(dict(node.options))}" if node.options else ""
    return f"{head}({inputs}) -> {outputs}{options}"


def with_unknowns(type_: Type) -> Type:
    """The type with dims that are not known yet shown as `?name`: no other dim may have their place."""
    return type_.substitute({s: Dim.of(Symbol(f"?{s.name}")) for dim in type_.dims for s in dim.symbols() if s.flexible})


def print_source(source: Source) -> str:
    return f"%{source}" if isinstance(source, str) else "[" + ", ".join(f"%{s}" for s in source) + "]"


def to_fields(config: Config) -> dict[str, Any]:
    """The fields of a config that say something, slots as tables with their type."""
    return {
        name: _field(getattr(config, name))
        for name in type(config).model_fields
        if getattr(config, name) != type(config).model_fields[name].default
    }


def _field(value: Any) -> Any:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        kind = getattr(type(value), "kind", "")
        return ({"type": kind} if kind else {}) | {
            n: _field(getattr(value, n)) for n in type(value).model_fields if getattr(value, n) != type(value).model_fields[n].default
        }
    if isinstance(value, Mapping):
        return {k: _field(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_field(v) for v in value]
    return value


__all__ = ["TextError", "parse_graph", "print_graph"]
