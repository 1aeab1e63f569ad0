"""What differs between two graphs: components and their fields, parameters, visual tokens, types, edges, programs, stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Graph
from ..passes.expect import count_parameters, parameters_of
from .tokens import visual_dims

SECTIONS = ("components", "fields", "parameters", "visual tokens", "types", "edges", "programs", "stages")


@dataclass(frozen=True)
class Change:
    """`left` is None for what only the right graph has, and the other way round."""

    section: str
    what: str
    left: Any
    right: Any

    def json(self) -> dict[str, Any]:
        return {"section": self.section, "what": self.what, "left": self.left, "right": self.right}


def diff(left: Graph, right: Graph) -> list[Change]:
    """Changes in the order of SECTIONS; empty for graphs that are the same."""
    found: list[Change] = []
    for section, (a, b) in zip(SECTIONS, zip(_facts(left), _facts(right))):
        shared = a.keys() & b.keys()
        for what in dict.fromkeys([*a, *b]):
            if section in ("fields", "types") and what not in shared:
                continue  # said by the component or edge that only one side has
            if a.get(what) != b.get(what):
                found.append(Change(section, what, a.get(what), b.get(what)))
    return found


def _facts(graph: Graph) -> Iterator[Mapping[str, Any]]:
    counts = count_parameters(graph)
    yield {id: config.kind for id, config in graph.components.items()}
    yield {f"{id}.{name}": _plain(getattr(config, name)) for id, config in graph.components.items() for name in type(config).model_fields}
    yield {"total": parameters_of(graph, counts, "total"), **{id: sum(parts.values()) for id, parts in counts.items() if parts}}
    yield {name: str(dim) for name, dim in visual_dims(graph).items()}
    yield {name: str(type_) for name, type_ in graph.types().items()}
    yield dict.fromkeys(_edges(graph), "")
    yield {name: ", ".join(p.outputs) for name, p in graph.programs.items()}
    yield {name: f"train {', '.join(s.train)}" for name, s in graph.stages.items()}


def _edges(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        for port, source in node.inputs.items():
            for value in (source,) if isinstance(source, str) else source:
                yield f"{graph.resolve(value)} -> {node.id}.{port}"
    for name in graph.outputs:
        yield f"{graph.resolve(name)} -> {name}"


def _plain(value: Any) -> Any:
    """A config field as data that compares and prints."""
    if hasattr(value, "model_dump"):
        return {"type": getattr(value, "kind", ""), **{k: _plain(v) for k, v in value if v is not None}}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def format_diff(changes: list[Change], left: str, right: str) -> str:
    """Unified in spirit: `-` the left, `+` the right, `~` both with an arrow."""
    if not changes:
        return f"{left} and {right} have the same graph\n"
    lines = [f"- {left}", f"+ {right}"]
    section = ""
    for change in changes:
        if change.section != section:
            section = change.section
            lines += ["", f"{section}:"]
        if change.left is None:
            lines.append(f"  + {change.what}" + _value(change.right))
        elif change.right is None:
            lines.append(f"  - {change.what}" + _value(change.left))
        else:
            delta = ""
            if isinstance(change.left, int) and isinstance(change.right, int) and section == "parameters":
                delta = f" ({change.right - change.left:+,})"
            lines.append(f"  ~ {change.what}: {_shown(change.left)} -> {_shown(change.right)}{delta}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return "" if value in ("", None) else f": {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)
