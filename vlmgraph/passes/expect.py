"""Holds the derived numbers against `[expect]`: parameters and visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import Dim, DimError, parse_dim
from ..ir.graph import CALL, Graph
from ..plugins import fault
from .base import Pass


@dataclass(frozen=True)
class Expect(Pass):
    """Compares what `[expect]` says with what the graph has. Reads `graph.labels` for places and `expect` from the graph."""

    name: ClassVar[str] = "expect"
    requires: ClassVar[frozenset[str]] = frozenset({"resolved"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        if found.failed:
            return graph
        for table, what in (("params", "parameters"), ("active_params", "parameters that take part for a token")):
            try:
                counts = count_parameters(graph, active=table == "active_params")
            except Uncounted as error:
                found.add(fault(graph.components[error.id], error.cause, graph.labels.get(f"component:{error.id}")))
                return graph
            for name, wanted in expected_parameters(graph.expect, table).items():
                have = parameters_of(graph, counts, name)
                label = graph.labels.get(f"expect:{table}.{name}") or graph.labels.get(f"expect:{table}")
                if have is None:
                    found.add(Diagnostic(C.EXPECT_PARAMS, f"[expect] {table}: {name!r} addresses nothing", label))
                elif have != wanted:
                    text = f"{name} has {have:,} {what}, {wanted:,} are expected"
                    found.add(Diagnostic(C.EXPECT_PARAMS, text, label, notes=(f"difference {have - wanted:+,}",)))
        check_tokens(graph, found)
        return graph


class Uncounted(Exception):
    """The parameters of a component whose own code fails."""

    def __init__(self, id: str, cause: Exception) -> None:
        self.id, self.cause = id, cause
        super().__init__(f"{id}: {cause}")


def expected_parameters(expect: Mapping[str, Any], table: str = "params") -> dict[str, int]:
    params = expect.get(table, {})
    if isinstance(params, int):
        return {"total": params}
    return {k: v for k, v in params.items() if isinstance(v, int)} if isinstance(params, Mapping) else {}


def count_parameters(graph: Graph, active: bool = False) -> dict[str, dict[str, int]]:
    """Component id → part → parameters, or those that take part for a token.

    What is tied counts once, where it is the right side of its tie.
    """
    counts: dict[str, dict[str, int]] = {}
    for id, config in graph.components.items():
        try:
            counts[id] = dict(config.active() if active else config.parameters())
        except Exception as error:
            if not config.foreign():
                raise
            raise Uncounted(id, error) from error
    for left, _ in graph.ties:
        parts = left.split(".")
        for n in range(len(parts) - 1, 0, -1):
            own = counts.get(".".join(parts[:n]))
            if own is not None:
                inside = [part for part in own if _within(parts[n:], part.split("."))]  # every part that the address names
                own.update(dict.fromkeys(inside or [parts[n]], 0))
                break
    return counts


def parameters_of(graph: Graph, counts: Mapping[str, Mapping[str, int]], name: str) -> int | None:
    """Parameters under `total`, an address (`llm.vision`), a block's use, or a sum of those (`a + b`)."""
    if name == "total":
        used = {n.component for n in graph.nodes if n.op == CALL} - graph.copies.keys()
        return sum(sum(parts.values()) for id, parts in counts.items() if id in used)
    total = 0
    for address in (part.strip() for part in name.split("+")):
        parts = addressed(graph, counts, address)
        if not parts:
            return None
        total += sum(counts[id][part] for id, part in parts)
    return total


def addressed(graph: Graph, counts: Mapping[str, Mapping[str, int]], address: str) -> set[tuple[str, str]] | None:
    """The (component, part) pairs an address means; None when the declarations do not count that part apart."""
    if address in ("all", "*"):
        return {(id, part) for id in counts for part in counts[id] if id not in graph.copies}
    id = next((i for i in sorted(counts, key=len, reverse=True) if address == i or address.startswith(f"{i}.")), None)
    if id is None:
        inner = {(i, part) for i in counts if i.startswith(f"{address}.") for part in counts[i]}
        return inner or None
    wanted = address[len(id) + 1 :].split(".") if address != id else []
    found = {(id, part) for part in counts[id] if _within(wanted, part.split("."))}
    return found or (None if wanted else set())


def _within(wanted: list[str], path: list[str]) -> bool:
    """Whether the segments stand in the path in this order."""
    rest = iter(path)
    return all(segment in rest for segment in wanted)


def check_tokens(graph: Graph, found: Collector) -> None:
    """Holds the derived token counts against a number or a formula. Formulas over more than the dims of inputs (tiles, seconds), and
    those of a table by image size, are for `report`, which knows the processor; here they only have to be formulas."""
    wanted, label = graph.expect.get("visual_tokens"), graph.labels.get("expect:visual_tokens")
    for formula in wanted.values() if isinstance(wanted, Mapping) else [wanted]:
        if isinstance(formula, str):
            try:
                parse_dim(formula)
            except DimError as error:
                found.add(Diagnostic(C.EXPECT_TOKENS, f"[expect] visual_tokens: {error}", label))
                return
    have = token_dims(graph)
    if isinstance(wanted, int):
        have = {port: dim for port, dim in have.items() if dim.constant}
    else:
        known = {symbol for type_ in graph.inputs.values() for dim in type_.dims for symbol in dim.symbols()}
        if not isinstance(wanted, str) or not parse_dim(wanted).symbols() <= known:
            return
    if have and parse_dim(str(wanted)) not in have.values():
        shown = ", ".join(f"{port} {dim}" for port, dim in have.items())
        found.add(Diagnostic(C.EXPECT_TOKENS, f"{wanted} visual tokens are expected, the graph gives {shown}", label))


def visual_tokens(graph: Graph) -> dict[str, int]:
    """Tokens an image gives to each feature port of the splices, or to media ports; fixed counts only."""
    return {port: dim.constant for port, dim in token_dims(graph).items() if dim.constant}


def token_dims(graph: Graph) -> dict[str, Dim]:
    """The token dim of each feature port of the splices, or of media ports; of a dual encoder what the vision tower gives."""
    found: dict[str, Dim] = {}
    types = graph.types()
    for node in graph.nodes:
        if node.op != CALL or node.component in graph.copies:
            continue
        for port, source in node.inputs.items():
            spliced = node_kind(graph, node.component) == "op.splice" and port not in ("text", "ids", "mask")
            is_visual = spliced or (port == "media" and graph.components[node.component].role != "connector")
            if is_visual and isinstance(source, str) and source in types and len(types[source].dims) >= 3:
                found[f"{node.id}.{port}"] = types[source].dims[-2]
    if not any(dim.constant for dim in found.values()):
        for node in graph.nodes:
            if node.op == CALL and node_kind(graph, node.component).startswith("vision.") and node.component not in graph.copies:
                out = next(iter(node.outputs.values()))
                if out.kind == "tokens":
                    found.setdefault(node.id, out.dims[-2])
    return found


def node_kind(graph: Graph, component: str) -> str:
    return graph.components[component].kind
