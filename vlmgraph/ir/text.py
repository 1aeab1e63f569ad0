"""The text form of a graph: one line a thing, parses back to an equal graph."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .dims import DimError
from .graph import CALL, Graph, Node, Objective, Program, Source, Stage
from .types import parse_type

if TYPE_CHECKING:
    from ..components.base import Config


class TextError(ValueError):
    """A graph text that cannot be read; the message names the line."""


def print_graph(graph: Graph) -> str:
    lines = [f"graph {json.dumps(graph.name)}"]
    lines += [f"token {json.dumps(name)} = {id}" for name, id in graph.tokens.items()]
    lines += [f"input {name}: {type_}" for name, type_ in graph.inputs.items()]
    lines += [f"component {id} = {config.kind} {dump(to_fields(config))}" for id, config in graph.components.items()]
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
        lines.append(f"objective {name} {dump({'loss': o.loss, 'rebind': rebind, 'when': o.when})}")
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
    outputs = ", ".join(f"{port}: {type_}" for port, type_ in node.outputs.items())
    inputs = ", ".join(f"{port}={print_source(source)}" for port, source in node.inputs.items())
    target = f"{node.component}{'@' + node.facet if node.facet else ''}" if node.op == CALL else ""
    head = f"{node.id} := {node.op} {target}".rstrip()
    options = f" {dump(dict(node.options))}" if node.options else ""
    return f"{head}({inputs}) -> {outputs}{options}"


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


_NODE = re.compile(r"(\S+) := (\w+)(?: ([^\s(@]+)(?:@([\w.]+))?)?\((.*?)\) -> (.*)")


def parse_graph(text: str) -> Graph:
    """Read the text form back. Raises TextError naming the line."""
    from ..components.inference import KINDS
    from ..plugins import registry

    tables = (
        "tokens",
        "inputs",
        "components",
        "aliases",
        "outputs",
        "programs",
        "objectives",
        "stages",
        "procedures",
        "companions",
        "expect",
    )
    parts: dict[str, Any] = {k: {} for k in tables}
    nodes: list[Node] = []
    own: dict[str, list[Node]] = {}
    ties: list[tuple[str, str]] = []
    name, objective = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            word, _, rest = line.strip().partition(" ")
            if not line.strip():
                continue
            if line.startswith("  "):
                own[objective].append(parse_node(line.strip()))
            elif word == "graph":
                name = json.loads(rest)
            elif word == "token":
                key, _, value = rest.rpartition(" = ")
                parts["tokens"][json.loads(key)] = int(value)
            elif word in ("input", "output"):
                key, _, value = rest.partition(": ")
                parts[word + "s"][key] = parse_type(value)
            elif word == "component":
                key, kind, fields = re.fullmatch(r"(\S+) = (\S+) (.*)", rest).groups()  # type: ignore[union-attr]
                parts["components"][key] = registry().load(kind)(**json.loads(fields))
            elif word == "alias":
                key, _, value = rest.partition(" = %")
                parts["aliases"][key] = value
            elif word == "carries":
                key, _, value = rest.partition(" {")
                parts["companions"][key.removeprefix("%")] = json.loads("{" + value)
            elif word == "tie":
                left, _, right = rest.partition(" = ")
                ties.append((left, right))
            elif word == "program":
                key, _, value = rest.partition(" ")
                fields = {k: v if k == "options" else tuple(v) for k, v in json.loads(value).items()}
                parts["programs"][key] = Program(**fields)
            elif word == "objective":
                objective, _, value = rest.partition(" ")
                parts["objectives"][objective] = json.loads(value)
                own[objective] = []
            elif word == "stage":
                key, _, value = rest.partition(" ")
                fields = json.loads(value)
                parts["stages"][key] = Stage(
                    tuple(fields["train"]), tuple(fields["freeze"]), fields["objectives"], fields["init"], fields["after"]
                )
            elif word == "inference":
                key, kind, fields = re.fullmatch(r"(\S+) = (\S+) (.*)", rest).groups()  # type: ignore[union-attr]
                parts["procedures"][key] = KINDS[kind](**json.loads(fields))
            elif word == "expect":
                parts["expect"] = json.loads(rest)
            else:
                nodes.append(parse_node(line))
        except (ValueError, KeyError, TypeError, AttributeError, DimError) as error:
            raise TextError(f"line {number}: {error}") from error
    parts["objectives"] = {
        k: Objective(
            v["loss"], tuple(own[k]), {(id, port): s if isinstance(s, str) else tuple(s) for id, port, s in v["rebind"]}, v["when"]
        )
        for k, v in parts["objectives"].items()
    }
    return Graph(name=name, nodes=tuple(nodes), ties=tuple(ties), **parts)


def parse_node(line: str) -> Node:
    match = _NODE.fullmatch(line)
    if not match:
        raise TextError(f"not a node: {line!r}")
    id, op, component, facet, inputs, tail = match.groups()
    listed, brace, options = tail.partition(" {")
    outputs = {}
    for port, type_ in re.findall(r"([\w.]+): (.*?)(?=, [\w.]+: |$)", listed):
        outputs[port] = parse_type(type_)
    feeds: dict[str, Source] = {}
    for port, many, one in re.findall(r"(\w+)=(?:\[(.*?)\](?=, \w+=|$)|%(.*?)(?=, \w+=|$))", inputs):
        feeds[port] = tuple(s.removeprefix("%") for s in many.split(", ")) if many else one
    return Node(id, op, component or "", facet or "", feeds, outputs, json.loads("{" + options) if brace else {})


__all__ = ["TextError", "parse_graph", "print_graph"]
