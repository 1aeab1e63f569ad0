"""The report of a graph: parameters, cost of every program, visual tokens, what each stage trains; against `[expect]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir.dims import Dim, Symbol
from ..ir.graph import CALL, Graph, Stage
from ..ir.types import Type
from ..passes.expect import addressed, count_parameters, expected_parameters, parameters_of
from .cost import BYTES, Cost, number, program_cost
from .tokens import entries, packed_lengths, patch_count, picture_sides, row_ends, visual_dims

FORMAT = 1
PROMPT = 64
"""Text tokens besides the visual ones where no length is given."""


@dataclass(frozen=True)
class Part:
    """Parameters of one component, by its addressable parts."""

    id: str
    kind: str
    role: str
    parts: dict[str, int]
    used: bool
    """Whether a node of the graph uses it."""
    idle: int = 0
    """Of its parameters those that do not take part for a token."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Expected:
    what: str
    expected: int
    actual: int | None


@dataclass(frozen=True)
class Trained:
    stage: str
    trainable: int
    by_component: dict[str, int]
    unknown: tuple[str, ...] = ()
    """Addresses whose parameters the declarations do not count apart."""


@dataclass(frozen=True)
class Report:
    model: str
    dtype: str
    dims: dict[str, int]
    parts: tuple[Part, ...]
    programs: tuple[Cost, ...]
    visual_tokens: dict[str, str]
    """Port or node → tokens of one image, as a formula where it depends on the image."""
    by_image: tuple[dict[str, Any], ...]
    expected: tuple[Expected, ...]
    stages: tuple[Trained, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts if part.used)

    @property
    def active(self) -> int:
        """Parameters that take part for a token."""
        return sum(part.total - part.idle for part in self.parts if part.used)

    def json(self) -> dict[str, Any]:
        """Stable keys; sizes in bytes, counts as integers."""
        return {
            "format": FORMAT,
            "model": self.model,
            "dtype": self.dtype,
            "dims": self.dims,
            "parameters": {
                "total": self.total,
                "active": self.active,
                "bytes": self.total * BYTES[self.dtype],
                "components": [
                    {"id": p.id, "kind": p.kind, "role": p.role, "total": p.total, "parts": p.parts, "used": p.used} for p in self.parts
                ],
            },
            "programs": [c.json() | {"cache_bytes": c.cache_bytes_per_token * self.dims.get("T", 0)} for c in self.programs],
            "visual_tokens": {"per_image": self.visual_tokens, "by_image": list(self.by_image)},
            "expect": [
                {"what": e.what, "expected": e.expected, "actual": e.actual, "equal": e.expected == e.actual} for e in self.expected
            ],
            "stages": [
                {
                    "name": s.stage,
                    "trainable": s.trainable,
                    "share": round(s.trainable / self.total, 6) if self.total else 0.0,
                    "by_component": s.by_component,
                    "uncounted": list(s.unknown),
                }
                for s in self.stages
            ],
        }


def report(
    graph: Graph,
    dtype: str = "bfloat16",
    dims: Mapping[str, int] | None = None,
    images: Sequence[tuple[int, int]] = (),
    processor: Mapping[str, Any] | None = None,
) -> Report:
    """Measure an elaborated graph. `dims` sets symbols (`B`, `T`); `images` are (width, height) of pictures to count tokens for;
    `processor` holds the spec's `[processor]` tables, which say what becomes of a picture of that size."""
    counts = count_parameters(graph)
    used = {node.component for node in graph.nodes if node.op == CALL} | {
        node.component for objective in graph.objectives.values() for node in objective.nodes if node.op == CALL
    }
    active = {id: sum(own.values()) for id, own in count_parameters(graph, active=True).items()}
    parts = tuple(
        Part(id, config.kind, config.role, counts[id], id in used, sum(counts[id].values()) - active[id])
        for id, config in graph.components.items()
    )
    tokens = visual_dims(graph)
    at = _dims(graph, tokens, dict(dims or {}), images[:1] or ((1024, 768),), processor or {})
    programs = tuple(cost for name in graph.programs if (cost := program_cost(graph, name, at, dtype)))
    return Report(
        graph.name,
        dtype,
        at,
        parts,
        programs,
        {name: str(dim) for name, dim in tokens.items()},
        tuple(_image(graph, tokens, size, processor or {}) for size in images),
        tuple(_expected(graph, counts, tokens, processor or {})),
        tuple(_trained(graph, name, stage, counts, used) for name, stage in graph.stages.items()),
    )


def _dims(
    graph: Graph, tokens: Mapping[str, Dim], given: dict[str, int], images: Sequence[tuple[int, int]], processor: Mapping[str, Any]
) -> dict[str, int]:
    """A number for every symbol of the inputs: one sample, one image, and a prompt beside its visual tokens."""
    lengths = {s.name for t in graph.inputs.values() if t.kind == "ids" for d in t.dims[1:] for s in d.symbols()}
    found = picture_sides(graph, processor, *images[0])
    later: list[str] = []
    for type_ in graph.inputs.values():
        for symbol in sorted(_symbols(type_)):
            if symbol in lengths:
                later.append(symbol)
            elif type_.kind == "patches" and len(type_.dims) > 1 and symbol in {s.name for s in type_.dims[-2].symbols()}:
                found.setdefault(symbol, given.get(symbol) or patch_count(processor, *images[0]) or 1)
            else:
                found.setdefault(symbol, 1)
    found.update({k: v for k, v in given.items() if k not in lengths})
    found = {symbol.name: n for symbol, n in packed_lengths(graph, processor, *images[0]).items()} | found
    values = {Symbol(k, flexible): Dim.of(v) for k, v in found.items() for flexible in (False, True)}
    rows = visual_dims(graph, spliced=True) if _spliced(graph) else {}
    visual = max((number(d, values) or 0 for d in rows.values()), default=0)
    ends = 0 if any(s.name in given for d in tokens.values() for s in d.symbols()) else row_ends(processor, *images[0])
    for symbol in dict.fromkeys(later):
        found[symbol] = given.get(symbol, visual + ends + PROMPT)
    return found | {k: v for k, v in given.items() if k not in found}


def _symbols(type_: Type) -> set[str]:
    return {symbol.name for dim in type_.dims for symbol in dim.symbols()}


def _spliced(graph: Graph) -> bool:
    return any(config.kind == "op.splice" for config in graph.components.values())


def _image(graph: Graph, tokens: Mapping[str, Dim], size: tuple[int, int], processor: Mapping[str, Any]) -> dict[str, Any]:
    symbols = {s.name for t in graph.inputs.values() if t.kind == "patches" and len(t.dims) > 1 for s in t.dims[-2].symbols()}
    flexible = {s for dim in tokens.values() for s in dim.symbols() if s.flexible}  # packed by a node
    patches, packed = patch_count(processor, *size), packed_lengths(graph, processor, *size) if flexible else {}
    values = {symbol: Dim.of(n) for symbol, n in packed.items()} or dict.fromkeys(flexible, Dim.of(patches or 0))
    values = values | {Symbol(name): Dim.of(patches) for name in symbols} if patches else values if packed else {}
    values = values | {Symbol(name): Dim.of(n) for name, n in picture_sides(graph, processor, *size).items()}
    ends, counts = row_ends(processor, *size), {name: number(dim, values) for name, dim in tokens.items()}
    times = entries(graph, processor, *size)
    return {"width": size[0], "height": size[1], "tokens": {name: n and n * times + ends for name, n in counts.items()}}


def _expected(
    graph: Graph, counts: Mapping[str, Mapping[str, int]], tokens: Mapping[str, Dim], processor: Mapping[str, Any]
) -> list[Expected]:
    """Published numbers beside derived ones. `visual_tokens` may be a table by size, HEIGHTxWIDTH, where the processor keeps the size."""
    rows = [Expected(name, wanted, parameters_of(graph, counts, name)) for name, wanted in expected_parameters(graph.expect).items()]
    if active := expected_parameters(graph.expect, "active_params"):
        used = count_parameters(graph, active=True)
        rows += [Expected(f"{name}, for a token", wanted, parameters_of(graph, used, name)) for name, wanted in active.items()]
    wanted = graph.expect.get("visual_tokens")
    if isinstance(wanted, int):
        have = [dim.constant for dim in tokens.values()]
        rows.append(Expected("visual_tokens", wanted, wanted if wanted in have else next((n for n in have if n), None)))
    for name, number_ in wanted.items() if isinstance(wanted, Mapping) else ():
        size = re.fullmatch(r"(\d+)x(\d+)", name)
        if size and isinstance(number_, int):
            height, width = int(size[1]), int(size[2])
            have = list(_image(graph, tokens, (width, height), processor)["tokens"].values())
            if any(have) or patch_count(processor, width, height) is not None:
                found = number_ if number_ in have else next((n for n in have if n), None)
                rows.append(Expected(f"visual_tokens {name}", number_, found))
    return rows


def _trained(graph: Graph, name: str, stage: Stage, counts: Mapping[str, Mapping[str, int]], used: set[str]) -> Trained:
    chosen: set[tuple[str, str]] = set()
    unknown: list[str] = []
    for address in stage.train:
        parts = addressed(graph, counts, address)
        if parts is None:
            unknown.append(address)
        else:
            chosen |= parts
    for address in stage.freeze:
        chosen -= addressed(graph, counts, address) or set()
    by: dict[str, int] = {}
    for id, part in sorted(chosen):
        if counts[id][part] and id in used:
            by[id] = by.get(id, 0) + counts[id][part]
    return Trained(name, sum(by.values()), {id: by[id] for id in graph.components if id in by}, tuple(unknown))
