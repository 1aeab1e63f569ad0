"""Types and dims of every value, by unification along the edges in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import ValidationError

from ..components.base import Component, Ports
from ..diagnostics import Collector, Diagnostic
from ..diagnostics import codes as C
from ..ir.dims import Dim, DimError, Symbol
from ..ir.graph import CALL, FOLD, JOIN, SLICE, UNFOLD, Entry, Graph, Node, Source
from ..ir.order import owner
from ..ir.types import COMPATIBLE, Type
from ..ir.unify import Conflict, Unifier
from ..plugins import fault
from .base import Pass
from .findings import Findings

POLYMORPHIC = frozenset({"tokens", "embedding", "patches", "map", "regions", "logits", "scores"})
"""Kinds that a port with leading `...` takes alike; its output keeps the kind that came in."""


@dataclass(frozen=True)
class Infer(Pass):
    """Checks every edge, binds inferred fields, inserts folds of leading dims.

    With `batches` the leading dims of the inputs are as equal as the ports ask for: a loss may say that images and texts are pairs.
    """

    batches: bool = False
    name: ClassVar[str] = "infer"
    requires: ClassVar[frozenset[str]] = frozenset({"carried"})
    ensures: ClassVar[frozenset[str]] = frozenset({"typed", "resolved"})

    def run(self, graph: Graph, found: Collector) -> Graph:
        return _Inference(graph, found, Unifier(peers=batch_dims(graph.inputs) if self.batches else ())).run()


def batch_dims(inputs: Mapping[str, Type]) -> tuple[Symbol, ...]:
    """The symbols that count samples: alone in front of some input and of no packed dim."""
    found: dict[Symbol, None] = {}
    for type_ in inputs.values():
        first = type_.dims[0] if type_.dims else Dim()
        symbols = tuple(first.symbols())
        if len(symbols) == 1 and first == Dim.of(symbols[0]) and str(first) not in dict(type_.owners):
            found[symbols[0]] = None
    return tuple(found)


@dataclass
class _Inference(Findings):
    types: dict[str, Type] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    """Values whose type is not known because something before them failed."""
    folds: dict[tuple[str, int, str], str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    """Nodes that another one reads."""
    entries: list[Entry] = field(default_factory=list)
    """Inputs of blocks that are not compared yet."""
    refused: set[tuple[str, str]] = field(default_factory=set)
    """Uses of blocks and the values that do not fit them: what reads those inside would only say it again."""

    def run(self) -> Graph:
        self.types.update(self.graph.inputs)
        producer = {value: node.id for node in self.graph.nodes for value, _ in node.values()}
        self.read = {p for node in self.graph.nodes for s in node.sources() if (p := owner(s, producer))}
        rebound = {key for o in self.graph.objectives.values() for key in o.rebind}
        self.entries = list(self.graph.entries)
        for node in self.graph.nodes:
            self.enter(set(node.sources()))
            if node.op == SLICE:
                self.slice(node)
            elif node.op == CALL:
                self.call(node, rebound)
            else:
                raise AssertionError(f"infer runs before {node.op} nodes exist")
        self.enter(set(self.types))
        self.declared_outputs()
        if not self.found.failed:
            self.settle()
        return self.finish()

    # ---- one node

    def unknown_field(self, component: str, name: str) -> Symbol:
        """What a field that is left out stands for; that of a copy is its source's, also where the copy is used for less."""
        copied = self.graph.copies.get(component)
        return Symbol(f"{component if copied is None else copied.of}.{name}", flexible=True)

    def ports(self, node: Node, config: Component) -> tuple[Ports, Ports]:
        """The signature as declared, and with its symbols made numbers or unknowns."""
        declared = config.signature(node.facet)
        cache: dict[str, Dim] = {}

        def dim_of(symbol: Symbol) -> Dim:
            if symbol.name not in cache:
                value = getattr(config, symbol.name, None)
                if isinstance(value, (int, bool)):
                    cache[symbol.name] = Dim.of(int(value))
                elif isinstance(value, Dim):
                    cache[symbol.name] = value.substitute({s: dim_of(s) for s in value.symbols()})
                elif symbol.name in type(config).model_fields:
                    cache[symbol.name] = Dim.of(self.unknown_field(node.component, symbol.name))
                else:
                    cache[symbol.name] = Dim.of(Symbol(f"{node.id}.{symbol.name}", flexible=True))
            return cache[symbol.name]

        def private(type_: Type) -> Type:
            return replace(type_, dims=tuple(d.substitute({s: dim_of(s) for s in d.symbols()}) for d in type_.dims))

        renamed = Ports({n: private(t) for n, t in declared.outputs.items()}, **{n: private(t) for n, t in declared.inputs.items()})
        return declared, renamed

    def call(self, node: Node, rebound: set[tuple[str, str]]) -> None:
        config = self.graph.config(node)
        try:
            declared, ports = self.ports(node, config)
        except DimError as error:
            self.report(C.BAD_DIMENSION, f"{node.id}: {error}", f"component:{node.component}")
            self.unknown |= {v for v, _ in node.values()}
            return
        inputs: dict[str, Source] = dict(node.inputs)
        missing = [p for p, t in declared.inputs.items() if p not in inputs and not t.optional]
        dangling = bool(missing) and (bool(inputs) or node.id in self.read) and not any((node.id, p) in rebound for p in missing)
        if dangling:
            wanted = ", ".join(f"{p}: {declared.inputs[p]}" for p in missing)
            self.report(
                C.DANGLING_PORT,
                f"{node.id} needs {wanted}, but no edge leads there",
                f"node:{node.id}",
                fix=f'add an edge "... -> {node.id}.{missing[0]}"',
            )
        unfold: tuple[int, str] | None = None
        kinds: dict[str, str] = {}
        leading: tuple[Dim, ...] = ()
        bound: set[str] = set()
        given: dict[str, Type | tuple[Type, ...]] = {}
        failed = dangling
        for port in declared.inputs:
            source = inputs.get(port)
            if source is None:
                continue
            values = (source,) if isinstance(source, str) else source
            fed: list[str] = []
            for value in values:
                refused = any(value == wrong and node.id.startswith(f"{use}.") for use, wrong in self.refused)
                if refused or value in self.unknown or value not in self.types:
                    failed = True
                    continue
                type_ = self.types[value]
                shape = declared.inputs[port]
                extra = len(type_.dims) - len(shape.dims)
                if not self.kind_fits(type_, shape):
                    self.edge_report(
                        C.KIND_MISMATCH,
                        node,
                        port,
                        value,
                        f"{value} is {self.shown(type_)}, but {node.id}.{port} takes {self.shown(shape)}",
                    )
                    failed = True
                    continue
                if extra > 0 and not shape.rest and shape.dims:
                    first = str(shape.dims[0])
                    if unfold and type_.dims[: extra + 1] == self.types[unfold[1]].dims[: unfold[0] + 1]:
                        value, type_ = self.fold(node, port, value, type_, extra)  # said of each of the items folded before
                    elif first in bound:
                        value, type_ = self.join(node, port, value, type_, extra)
                    else:
                        unfold = unfold or (extra, value)
                        value, type_ = self.fold(node, port, value, type_, extra)
                elif extra < 0:
                    self.edge_report(
                        C.RANK_MISMATCH,
                        node,
                        port,
                        value,
                        f"{value} is {self.shown(type_)}, but {node.id}.{port} takes {self.shown(shape)}",
                    )
                    failed = True
                    continue
                if shape.rest:
                    leading = type_.dims[: len(type_.dims) - len(shape.dims)]
                    kinds[shape.kind] = type_.kind
                failed |= not self.unify(node, port, value, type_, ports.inputs[port], shape)
                fed.append(value)
                given[port] = type_ if isinstance(source, str) else (*given.get(port, ()), type_)  # type: ignore[misc]
            bound |= {str(d) for d in declared.inputs[port].dims[:1]}
            if fed:
                inputs[port] = fed[0] if isinstance(source, str) else tuple(fed)
        special = None
        if not failed and not missing:
            try:
                special = config.result(self.resolved(given))
            except DimError as error:
                self.report(C.WRONG_DIM, f"{node.id}: {error}", f"node:{node.id}")
                failed = True
            except Exception as error:
                if not config.foreign():
                    raise
                self.found.add(fault(config, error, self.label(f"component:{node.component}")))
                failed = True
        outputs = {**ports.outputs, **(special or {})}
        hidden = outputs.get("hidden")
        made: dict[str, Type] = {}
        for port in node.outputs:
            type_ = outputs[port] if port in outputs else hidden or next(iter(outputs.values()))
            if type_.rest:
                type_ = replace(type_, dims=leading + type_.dims, rest=False, kind=kinds.get(type_.kind, type_.kind))
            made[port] = type_
        placed = replace(node, inputs=inputs, outputs=made)
        self.nodes.append(placed)
        for value, type_ in placed.values():
            self.types[value] = type_
            if failed:
                self.unknown.add(value)
        if unfold and not failed:
            self.unfold(placed, declared, *unfold)

    def kind_fits(self, value: Type, port: Type) -> bool:
        if value.kind == port.kind or port.kind in COMPATIBLE.get(value.kind, ()):
            return True
        return port.rest and port.kind in POLYMORPHIC and value.kind in POLYMORPHIC

    def unify(self, node: Node, port: str, value: str, type_: Type, pattern: Type, shape: Type) -> bool:
        dims = type_.dims[len(type_.dims) - len(pattern.dims) :]
        good = True
        for i, (have, want) in enumerate(zip(dims, pattern.dims, strict=True)):
            try:
                self.unifier.equate(want, have)
            except Conflict as conflict:
                if not good and shape.kind in ("image", "video") and i == len(dims) - 1:
                    continue  # a picture too high and too wide is of the wrong size once
                good = False
                ported = replace(shape, dims=self.ports(node, self.graph.config(node))[1].inputs[port].dims)
                self.dim_report(node, port, value, type_, shape, ported, i - len(dims), conflict)
            except DimError as error:
                good = False
                self.edge_report(C.NOT_DIVISIBLE, node, port, value, f"{node.id}: {error}")
        return good

    # ---- shape steps

    def fold(self, node: Node, port: str, value: str, type_: Type, count: int) -> tuple[str, Type]:
        key = (value, count, "")
        folded = type_.with_dims((_product(type_.dims[: count + 1]), *type_.dims[count + 1 :]))
        folded = replace(folded, kind="image" if type_.kind == "video" else type_.kind)
        if key not in self.folds:
            name = f"{value}.folded_{count}"
            self.nodes.append(Node(name, FOLD, inputs={"x": value}, outputs={"out": folded}, options={"count": count + 1}))
            self.types[name] = folded
            self.folds[key] = name
        return self.folds[key], folded

    def join(self, node: Node, port: str, value: str, type_: Type, count: int) -> tuple[str, Type]:
        """`[B, M, L, d]` where B is shared with another port: the dims after B become one token dim."""
        key = (value, count, "join")
        joined = type_.with_dims((type_.dims[0], _product(type_.dims[1 : count + 2]), *type_.dims[count + 2 :]))
        if key not in self.folds:
            name = f"{value}.joined_{count}"
            self.nodes.append(Node(name, JOIN, inputs={"x": value}, outputs={"out": joined}, options={"count": count + 1}))
            self.types[name] = joined
            self.folds[key] = name
        return self.folds[key], joined

    def unfold(self, node: Node, declared: Ports, count: int, like: str) -> None:
        """Give the outputs their leading dims back. The folded call gets a private name, the unfolded value the public one."""
        leading = self.types[like].dims[: count + 1]
        inner = replace(node, id=f"{node.id}.folded")
        self.nodes[-1] = inner
        for port, type_ in node.outputs.items():
            shape = declared.outputs.get(port, declared.outputs.get("hidden", next(iter(declared.outputs.values()))))
            first = shape.dims[0] if shape.dims else None
            default = next(iter(declared.inputs.values()))
            value = node.value(port)
            if first is not None and default.dims and first == default.dims[0]:
                unfolded = type_.with_dims((*leading, *type_.dims[1:]))
                options = {"count": count + 1}
                self.nodes.append(
                    Node(value, UNFOLD, inputs={"x": inner.value(port), "like": like}, outputs={"out": unfolded}, options=options)
                )
                self.types[value] = unfolded
                self.types[inner.value(port)] = type_

    def slice(self, node: Node) -> None:
        source = node.inputs["x"]
        assert isinstance(source, str)
        if source in self.unknown or source not in self.types:
            self.unknown.add(node.id)
            return
        type_ = self.types[source]
        axis = -2 if type_.kind in ("tokens", "patches", "map") and len(type_.dims) > 1 else -1
        at = len(type_.dims) + axis
        size = self.value(type_.dims[at])
        options = {**node.options, "axis": axis}
        known = size.constant
        if "index" in node.options:
            index = int(node.options["index"])
            if known is not None and not -known <= index < known:
                self.report(C.BAD_SLICE, f"{source} has {known} positions; there is no [{index}]", f"node:{node.id}")
            kind = "embedding" if type_.kind in ("tokens", "patches") else type_.kind
            made = replace(type_, kind=kind, dims=type_.dims[:at] + type_.dims[at + 1 :])
        else:
            sizes = {str(dim) for given in self.graph.inputs.values() for dim in given.dims}
            unknown = [b for b in (node.options.get("start"), node.options.get("stop")) if isinstance(b, str) and b not in sizes]
            if unknown:
                note = f"dims of inputs: {', '.join(sorted(d for d in sizes if d.isidentifier())) or 'none'}"
                text = f"[{unknown[0]}]: a slice is bounded by numbers and by dims of inputs"
                self.report(C.BAD_SLICE, text, f"node:{node.id}", notes=(note,))
                self.unknown.add(node.id)
                return
            start, stop = Dim.of(node.options.get("start") or 0), node.options.get("stop")
            first = size + start if (start.constant or 0) < 0 else start
            last = size if stop is None else Dim.of(stop)
            last = size + last if (last.constant or 0) < 0 else last
            if known is not None and last.constant is not None and last.constant > known:
                last = size
            length = last - first
            if length.constant is not None and length.constant <= 0:
                self.report(C.BAD_SLICE, f"nothing is left of {source}, which has {size} positions", f"node:{node.id}")
            made = type_.with_dims((*type_.dims[:at], length, *type_.dims[at + 1 :]))
        self.types[node.id] = made
        self.nodes.append(replace(node, outputs={"out": made}, options=options))

    # ---- the end

    def declared_outputs(self) -> None:
        rigid = {s.name for t in self.graph.inputs.values() for d in t.dims for s in d.symbols()}
        for name, declared in self.graph.outputs.items():
            value = self.graph.resolve(name)
            if value == name or value in self.unknown:
                if value == name and not self.found.failed:
                    self.report(
                        C.OUTPUT_NOT_FED, f"output {name!r} is fed by no edge", f"output:{name}", fix=f'end an edge in it: "... -> {name}"'
                    )
                continue
            type_ = self.types.get(value)
            if type_ is None:
                continue
            if not self.kind_fits(type_, declared) or len(type_.dims) != len(declared.dims):
                code = C.KIND_MISMATCH if not self.kind_fits(type_, declared) else C.RANK_MISMATCH
                self.report(
                    code,
                    f"output {name} is declared {declared}, but {value} is {self.shown(type_)}",
                    f"edge:{name}",
                    other=f"output:{name}",
                )
                continue
            for have, want in zip(type_.dims, declared.dims, strict=True):
                values = {s: Dim.of(Symbol(f"output.{s.name}", flexible=True)) for s in want.symbols() if s.name not in rigid}
                try:
                    self.unifier.equate(have, want.substitute(values))
                except (Conflict, DimError):
                    text = f"output {name} is declared {declared}, but {value} is {self.shown(type_)}"
                    self.report(C.OUTPUT_TYPE, text, f"output:{name}", other=f"edge:{name}")
                    break

    def enter(self, values: set[str]) -> None:
        """Compare what the values are with what the blocks that they enter declare, before anything inside reads them."""
        for entry in [e for e in self.entries if values & set(e.values)]:
            if any(value not in self.types and value not in self.unknown for value in entry.values):
                continue  # of a list, or of a slice that lacks it
            self.entries.remove(entry)
            count = entry.type.count.constant if entry.type.count is not None else None
            if entry.type.list and count is not None and count != len(entry.values):
                self.refuse(entry, entry.values[0], C.NOT_A_LIST_PORT, f"{entry.name} takes {count} values, {len(entry.values)} are given")
            for value in entry.values:
                if value not in self.unknown:
                    self.fits(entry, value, self.types[value])

    def fits(self, entry: Entry, value: str, have: Type) -> None:
        """A value against the declared type of a block's input. Dims that it names are the same in all inputs of the use."""
        private = {s: Dim.of(Symbol(f"{entry.block}.{s.name}", flexible=True)) for d in entry.type.dims for s in d.symbols()}
        want, extra = entry.type.substitute(private), len(have.dims) - len(entry.type.dims)
        text = f"{value} is {self.shown(have)}, but {entry.name} is declared {replace(entry.type, optional=False)}"
        if not self.kind_fits(have, entry.type):
            self.refuse(entry, value, C.KIND_MISMATCH, text)
        elif extra < 0:
            self.refuse(entry, value, C.RANK_MISMATCH, text)
        else:
            # further leading dims fold into the first one where the value is read
            skipped = extra > 0 and not want.rest
            for i, (left, right) in enumerate(zip(want.dims[skipped:], have.dims[extra + skipped :])):
                try:
                    self.unifier.equate(left, right)
                except (Conflict, DimError):
                    axis = i + skipped - len(want.dims)
                    width = axis == -1 and have.kind in ("tokens", "embedding", "patches", "regions")
                    count = axis == -2 and have.kind == "tokens"
                    self.refuse(entry, value, C.WRONG_WIDTH if width else C.WRONG_TOKEN_COUNT if count else C.WRONG_DIM, text)
                    break

    def refuse(self, entry: Entry, value: str, code: str, text: str) -> None:
        self.refused.add((entry.block, value))
        at, declared = self.label(f"edge:{entry.name}"), self.label(f"declared:{entry.name}")
        self.found.add(Diagnostic(code, text, at, (declared,) if declared else ()))

    def settle(self) -> None:
        """Dims of one equation in two unknowns that never met a third are errors now, and so are divisions that leave a remainder."""
        for node in self.nodes:
            for dim in (d for type_ in node.outputs.values() for d in type_.dims if node.op == CALL):
                try:
                    self.unifier.value(dim)
                except DimError as error:
                    self.report(C.NOT_DIVISIBLE, f"{node.id}: {error}", f"node:{node.id}")
                    return
        for left, right in self.unifier.pending:
            a, b = self.unifier.value(left), self.unifier.value(right)
            if a != b:
                self.report(
                    C.CANNOT_INFER,
                    f"cannot tell whether {a} equals {b}",
                    next((f"node:{s.name.rpartition('.')[0]}" for s in sorted((a - b).symbols()) if s.flexible), ""),
                )

    def finish(self) -> Graph:
        components = dict(self.graph.components)
        used = {n.component: n.id for n in self.nodes if n.op == CALL and n.inputs}
        for id, config in components.items():
            values: dict[str, int] = {}
            for name in type(config).model_fields:
                if getattr(config, name) is None:
                    value = self.value(Dim.of(self.unknown_field(id, name))).constant
                    if value is not None:
                        values[name] = value
                    elif id in used and self.needed(config, name) and not self.found.failed:
                        self.report(C.CANNOT_INFER, f"{id}.{name} follows from no edge", f"component:{id}", fix=f"give it: {name} = ...")
            if values:
                components[id] = self.rebuilt(id, config, values)
        nodes = [replace(n, outputs={p: self.final(t) for p, t in n.outputs.items()}) for n in self.nodes]
        inputs = {name: self.final(type_) for name, type_ in self.graph.inputs.items()}
        return replace(self.graph, inputs=inputs, nodes=tuple(nodes), components=components)

    def needed(self, config: Component, name: str) -> bool:
        symbols = {
            s.name
            for f in (config.facets or ("",))
            for p in [config.signature(f)]
            for t in (*p.inputs.values(), *p.outputs.values())
            for d in t.dims
            for s in d.symbols()
        }
        fed_only_optional = {
            s.name
            for f in (config.facets or ("",))
            for t in config.signature(f).inputs.values()
            if t.optional
            for d in t.dims
            for s in d.symbols()
        }
        required = {
            s.name
            for f in (config.facets or ("",))
            for p in [config.signature(f)]
            for t in (*(t for t in p.inputs.values() if not t.optional), *p.outputs.values())
            for d in t.dims
            for s in d.symbols()
        }
        return name in symbols and (name in required or name not in fed_only_optional)

    def rebuilt(self, id: str, config: Component, values: Mapping[str, int]) -> Component:
        fields = {f: getattr(config, f) for f in config.model_fields_set}
        try:
            return type(config)(**{**fields, **values})
        except ValidationError as error:
            detail = "; ".join(f["msg"].removeprefix("Value error, ") for f in error.errors())
            shown = ", ".join(f"{k} = {v}" for k, v in values.items())
            self.report(C.INVALID_FIELD, f"{id} with inferred {shown}: {detail}", f"component:{id}")
            return config

    def resolved(self, given: Mapping[str, Type | tuple[Type, ...]]) -> dict[str, Type | tuple[Type, ...]]:
        return {p: self.final(t) if isinstance(t, Type) else tuple(self.final(x) for x in t) for p, t in given.items()}


def _product(dims: tuple[Dim, ...]) -> Dim:
    total = Dim.of(1)
    for dim in dims:
        total = total * dim
    return total
