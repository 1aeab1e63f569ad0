"""What one forward of a program costs: operations, values on the edges, cache. Sums of the components' own formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.dims import Dim, DimError, Symbol
from ..ir.graph import CALL, Graph, Node
from ..ir.types import INTEGER_KINDS, Type
from ..passes.slice import MissingInput, ProgramGraph, slice_program

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}


@dataclass(frozen=True)
class Cost:
    """Of one program at given dims. Bytes are of `dtype`; integers count 8 bytes, masks 1."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    flops: int | None
    formula: str
    by_node: dict[str, int]
    uncounted: tuple[str, ...]
    """Nodes with parameters whose component gives no formula."""
    values_bytes: int | None
    peak_bytes: int | None
    """The most that is alive at one time between components; what a component allocates inside is not counted."""
    cache_bytes_per_token: int
    """Keys and values of one sample and token, over all cached components."""

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "flops": self.flops,
            "flops_formula": self.formula,
            "flops_by_node": self.by_node,
            "uncounted": list(self.uncounted),
            "values_bytes": self.values_bytes,
            "peak_values_bytes": self.peak_bytes,
            "cache_bytes_per_token": self.cache_bytes_per_token,
        }


def program_cost(graph: Graph, name: str, dims: Mapping[str, int], dtype: str, present: Iterable[str] | None = None) -> Cost | None:
    """The cost of a program when the inputs `present` are given (all where left out); None where its outputs cannot be computed."""
    try:
        program = slice_program(graph, name, present)
    except MissingInput:
        return None
    types = graph.types()
    values = {Symbol(k, flexible): Dim.of(v) for k, v in dims.items() for flexible in (False, True)}
    total, by_node, uncounted = Dim(), {}, []
    for node in program.nodes:
        if node.op != CALL:
            continue
        config = graph.config(node)
        formula = config.flops(node_dims(graph, node, types))
        total = total + formula
        amount = number(formula, values)
        if amount:
            by_node[node.id] = amount
        elif config.total() and config.multiplies:
            uncounted.append(node.id)
    every, peak = _alive(program, types, values, dtype)
    cached = sum(graph.components[c].cache_bytes_per_token() for c in program.cache)
    return Cost(
        name, {k: str(t) for k, t in program.inputs.items()}, {k: str(types.get(v, "")) for k, v in program.outputs.items()},
        number(total, values), str(total), by_node, tuple(uncounted), every, peak, cached * BYTES[dtype],
    )  # fmt: skip


def node_dims(graph: Graph, node: Node, types: Mapping[str, Type]) -> dict[str, Dim]:
    """Every symbol of the node's signature and every integer field, with what it is on the edges."""
    config = graph.config(node)
    found: dict[str, Dim] = {}
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(value, int):
            found[field] = Dim.of(int(value))
    ports = config.signature(node.facet)
    absent = config.absent(frozenset(node.inputs))
    pairs = [(declared, node.outputs.get(port)) for port, declared in ports.outputs.items() if port not in absent]
    for port, source in node.inputs.items():
        if port in ports.inputs:
            first = source if isinstance(source, str) else source[0] if source else ""
            pairs.insert(0, (ports.inputs[port], types.get(graph.resolve(first), types.get(first))))
    for declared, actual in pairs:
        if actual is None:
            continue
        for want, have in zip(reversed(declared.dims), reversed(actual.dims)):
            if len(want.terms) == 1 and want.terms[0][1] == 1 and len(want.terms[0][0]) == 1:
                atom = want.terms[0][0][0]
                if isinstance(atom, Symbol):
                    found.setdefault(atom.name, have)
        if declared.rest:
            rest = Dim.of(1)
            for dim in actual.dims[: len(actual.dims) - len(declared.dims)]:
                rest = rest * dim
            found.setdefault("...", rest)
    if node.options.get("until"):  # only taps are read: nothing behind the last of them runs
        found["layers"] = Dim.of(max(int(port.removeprefix("hidden.")) for port in node.outputs if port.startswith("hidden.")))
    return found


def number(dim: Dim, values: Mapping[Symbol, Dim]) -> int | None:
    """The value of a dim, or None while something in it is unknown."""
    try:
        return dim.substitute(values).constant
    except DimError:
        return None


def _alive(program: ProgramGraph, types: Mapping[str, Type], values: Mapping[Symbol, Dim], dtype: str) -> tuple[int | None, int | None]:
    last: dict[str, int] = {}
    for at, node in enumerate(program.nodes):
        for source in node.sources():
            last[source] = at
    for value in program.outputs.values():
        last[value] = len(program.nodes)
    alive: dict[str, int] = {}
    every = peak = 0
    for at, node in enumerate(program.nodes):
        for value, type_ in node.values():
            if value not in last:
                continue
            size = _bytes(type_, values, dtype)
            if size is None:
                return None, None
            alive[value] = size
            every += size
        peak = max(peak, sum(alive.values()))
        alive = {value: size for value, size in alive.items() if last[value] > at}
    return every, peak


def _bytes(type_: Type, values: Mapping[Symbol, Dim], dtype: str) -> int | None:
    count = Dim.of(1)
    for dim in type_.dims:
        count = count * dim
    amount = number(count, values)
    width = 8 if type_.kind in INTEGER_KINDS else 1 if type_.kind == "mask" else BYTES[dtype]
    return None if amount is None else amount * width
