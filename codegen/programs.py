"""Programs → methods: the value flow as straight code, with an `if` where a node runs only for some of the optional inputs."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmgraph.ir.graph import CALL, FOLD, JOIN, SLICE, UNFOLD, Graph, Node
from vlmgraph.ir.types import Type
from vlmgraph.lower.program import identifier
from vlmgraph.passes.slice import ProgramGraph

from .abstract import Dynamic
from .cached import StackStand
from .trees import assign, attribute, call, constant, item, name, not_none
from .worlds import World, Worlds


@dataclass
class Item:
    """Statements that run in some worlds, and the variables they read and write."""

    worlds: frozenset[World]
    statements: list[Any]
    reads: set[str]
    writes: set[str]


@dataclass
class Call:
    """One call of a component as the method makes it: for each argument a value's type, or a constant."""

    node: Node
    arguments: dict[str, Any]
    """Port → Type (given in every world), (Type, None) where it may be None, a list of Types, or a constant option."""


@dataclass
class ProgramMethod:
    name: str
    required: dict[str, Type]
    optional: dict[str, Type]
    outputs: dict[str, Type]
    body: list[Any]
    calls: list[Call] = field(default_factory=list)
    caches: tuple[str, ...] = ()
    """Parameters behind all others: what the components that remember hold between steps."""


class Writer:
    """Writes one program."""

    def __init__(
        self, graph: Graph, program: str, defaults: Callable[[Node], Mapping[str, Any]], returns: Callable[[Node], Any], step: bool = False
    ) -> None:
        self.graph, self.worlds, self.defaults, self.returns = graph, Worlds(graph, program, step), defaults, returns
        self.caches = {c: f"cache_{identifier(c)}" for s in self.worlds.slices.values() for c in s.cache}
        self.names: dict[str, str] = {}
        self.calls: list[Call] = []
        self.items: list[Item] = []
        self.merged: set[str] = set()
        self.types = graph.types() | self.worlds.required | self.worlds.optional
        for slice_ in self.worlds.slices.values():
            for node in slice_.nodes:
                self.types.update(node.values())
        for value in (*self.worlds.required, *self.worlds.optional):
            self.variable(value)

    def variable(self, value: str) -> str:
        """The variable that holds a value."""
        if value not in self.names:
            wanted = base = identifier(value)
            taken = set(self.names.values())
            number = 2
            while wanted in taken or wanted == "self":
                wanted, number = f"{base}_{number}", number + 1
            self.names[value] = wanted
        return self.names[value]

    def method(self, method_name: str) -> ProgramMethod:
        worlds = self.worlds
        order = {n.id: i for i, n in enumerate(self.graph.nodes)}
        ids = sorted({n.id for s in worlds.slices.values() for n in s.nodes}, key=order.__getitem__)
        self.nodes = {w: {n.id: n for n in s.nodes} for w, s in worlds.slices.items()}
        self.uses = self.count_uses(ids)
        self.inlined: dict[str, Any] = {}
        for id in ids:
            self.node(id)
        outputs: dict[str, str] = {}
        for slice_ in worlds.slices.values():
            outputs |= slice_.outputs
        for world in sorted(worlds.slices, key=len):  # what an output is with every input is its own name, what else it is a bypass
            outputs |= worlds.slices[world].outputs
        self.finish(outputs)
        types = {k: self.types[self.graph.resolve(v)] if v not in self.types else self.types[v] for k, v in outputs.items()}
        caches = tuple(dict.fromkeys(self.caches.values()))
        return ProgramMethod(method_name, worlds.required, worlds.optional, types, self.scheduled(), self.calls, caches)

    def count_uses(self, ids: Iterable[str]) -> dict[str, int]:
        """How many ports and outputs read a value, the most in one world."""
        most: dict[str, int] = {}
        for slice_ in self.worlds.slices.values():
            counts: dict[str, int] = {}
            for value in [*(s for n in slice_.nodes for s in n.sources()), *slice_.outputs.values()]:
                counts[value] = counts.get(value, 0) + 1
            for value, count in counts.items():
                most[value] = max(count, most.get(value, 0))
        return most

    def node(self, id: str) -> None:
        runs = {w: nodes[id] for w, nodes in self.nodes.items() if id in nodes}
        first = next(iter(runs.values()))
        # as it stands in the graph, and with what a step hands to it
        whole = {**{port: source for n in runs.values() for port, source in n.inputs.items()}, **self.graph.node(id).inputs}
        sources: dict[str, dict[World, Any]] = {port: {w: n.inputs.get(port) for w, n in runs.items()} for port in whole}
        arguments = {port: self.argument(whole[port], found) for port, found in sources.items()}
        arguments = {port: a for port, a in arguments.items() if a is not None}
        if first.op != CALL:
            self.step(first, arguments, frozenset(runs))
            return
        defaults = self.defaults(first)
        # a port that may be absent is given as None; where that is not its default, calls with and without it are told apart
        apart = [p for p, found in sources.items() if None in found.values() and defaults.get(p, None) is not None]
        groups: dict[frozenset[str], list[World]] = {}
        for w, n in runs.items():
            groups.setdefault(frozenset(p for p in apart if p in n.inputs), []).append(w)
        for given, worlds in groups.items():
            left = {p: a for p, a in arguments.items() if p not in apart or p in given}
            self.call(runs[worlds[0]], left, sources, frozenset(worlds))

    def argument(self, whole: Any, found: Mapping[World, Any]) -> Any:
        """The expression of a port that is fed by `whole`, and the variables it reads; None where it is never fed."""
        kinds = list(dict.fromkeys(found.values()))
        if kinds == [None]:
            return None
        if not isinstance(whole, str):
            if len(kinds) == 1:
                return self.several([self.read(s) for s in kinds[0]])
            every = [self.either(s, {w: (s if f and s in f else None) for w, f in found.items()}) for s in whole]
            reads = set().union(*(r for _, r in every))
            given = name("x")
            listed = ast.ListComp(
                elt=given,
                generators=[
                    ast.comprehension(target=given, iter=ast.Tuple(elts=[e for e, _ in every]), ifs=[not_none(given, True)], is_async=0)
                ],
            )
            return listed, reads
        if len(kinds) == 1:
            return self.read(kinds[0])
        return self.either(self.graph.resolve(whole), found)

    def several(self, parts: list[Any]) -> Any:
        return ast.List(elts=[e for e, _ in parts]), set().union(*(r for _, r in parts))

    def read(self, value: str) -> tuple[Any, set[str]]:
        if value in self.inlined:
            return self.inlined[value]
        variable = self.variable(value)
        return name(variable), {variable}

    def either(self, whole: str, found: Mapping[World, Any]) -> tuple[Any, set[str]]:
        """A variable that holds different values in different worlds: filled where its own node does not."""
        variable = self.variable(whole)
        given = [f for f in found.values() if f in self.worlds.optional]
        absent = [w for w, f in found.items() if f is None]
        for source in dict.fromkeys(given):
            if source is not None and all(source not in w for w in absent):  # None is what that input then is
                found = {w: source if f is None else f for w, f in found.items()}
                break
        for other in dict.fromkeys(found.values()):
            if (other == whole and whole not in self.inlined) or (other is None and whole in self.worlds.optional):
                continue
            key = f"{whole} <- {other}"
            worlds = frozenset(w for w, f in found.items() if f == other)
            if other is None:  # wherever its own node does not run
                worlds = self.worlds.all - frozenset(w for w, s in self.worlds.slices.items() if self.runs(whole, s))
                if not worlds:  # it always runs, and gives None by itself
                    continue
            if key in self.merged:
                for made in self.items:
                    if getattr(made, "key", None) == key:
                        made.worlds |= worlds
                continue
            self.merged.add(key)
            expression, reads = (constant(None), set()) if other is None else self.read(other)
            made = Item(worlds, [assign(variable, expression)], set(reads), {variable})
            made.key = key  # type: ignore[attr-defined]
            self.items.append(made)
        return name(variable), {variable}

    def runs(self, value: str, program: ProgramGraph) -> bool:
        return any(value == v for n in program.nodes for v, _ in n.values())

    def step(self, node: Node, arguments: Mapping[str, Any], worlds: frozenset[World]) -> None:
        """A slice, fold or unfold: part of the expression that reads it, or a variable where several do."""
        ((value, type_),) = node.values()
        x, reads = arguments["x"]
        reads = set(reads)
        source = node.inputs["x"]
        rank = len(self.types[source].dims) if isinstance(source, str) and source in self.types else None
        if node.op == FOLD:
            made = call(attribute(x, "flatten"), constant(0), constant(node.options["count"] - 1))
        elif node.op == JOIN:
            made = call(attribute(x, "flatten"), constant(1), constant(node.options["count"]))
        elif node.op == UNFOLD:
            like, more = arguments["like"]
            reads |= more
            made = call(
                attribute(x, "unflatten"), constant(0), item(attribute(like, "shape"), ast.Slice(upper=constant(node.options["count"])))
            )
        elif node.op == SLICE:
            made = self.sliced(x, node, rank, reads)
        else:
            raise AssertionError(node.op)
        if self.uses.get(value, 0) <= 1 and not (isinstance(made, ast.Call) and node.op == UNFOLD):
            self.inlined[value] = made, reads
            return
        variable = self.variable(value)
        self.items.append(Item(worlds, [shaped(assign(variable, made), type_)], reads, {variable}))

    def sliced(self, x: Any, node: Node, rank: int | None, reads: set[str]) -> Any:
        axis, options = node.options["axis"], node.options
        if "index" in options:
            inner: Any = constant(options["index"])
        else:
            lower, upper = (self.bound(options.get(k), reads) for k in ("start", "stop"))
            inner = ast.Slice(lower=lower, upper=upper)
        place = axis if axis >= 0 else rank + axis if rank is not None else None
        if place is None:
            parts = [constant(...), inner, *[ast.Slice()] * (-axis - 1)]
        else:
            parts = [*[ast.Slice()] * place, inner]
        return item(x, parts[0] if len(parts) == 1 else ast.Tuple(elts=parts))

    def bound(self, value: Any, reads: set[str]) -> Any:
        """A slice bound; one that is a dim's name is read off the first input that has the dim."""
        if value is None:
            return None
        if not isinstance(value, str):
            return constant(value)
        for input_name, type_ in {**self.worlds.required, **self.worlds.optional}.items():
            for axis, dim in enumerate(type_.dims):
                if str(dim) == value:
                    reads.add(self.variable(input_name))
                    return item(attribute(name(self.variable(input_name)), "shape"), constant(axis))
        raise KeyError(f"no input has the dim {value!r}")

    def call(self, node: Node, arguments: Mapping[str, Any], sources: Mapping[str, Mapping[World, Any]], worlds: frozenset[World]) -> None:
        options = {k: v for k, v in node.options.items() if k != "axis"}
        taps = tuple(int(p.partition(".")[2]) for p in node.outputs if p.startswith("hidden."))
        if taps:
            options["taps"] = taps
        asked = dict.fromkeys((port for port in node.outputs if port in self.graph.config(node).requested), True)
        options |= asked
        reads = set().union(*(r for _, r in arguments.values())) if arguments else set()
        made = CallNode(node, {p: e for p, (e, _) in arguments.items()}, {k: constant(v) for k, v in options.items()})
        described: dict[str, Any] = dict(options)
        for port in arguments:
            found = [sources[port][w] for w in worlds]
            kinds = [f for f in dict.fromkeys(found) if f is not None]
            if not isinstance(kinds[0], str):
                described[port] = [self.types[s] for s in kinds[0]]
            else:
                maybe = None in found or any(self.may_be_none(s, sources[port], worlds) for s in kinds)
                described[port] = (self.types[kinds[0]], None) if maybe else self.types[kinds[0]]
        if node.component in self.caches:
            made.ports["cache"] = name(self.caches[node.component])
            described["cache"] = Dynamic(name("cache"), StackStand())
        self.calls.append(Call(node, described))
        wanted = {p: v for p, v in ((p, node.value(p)) for p in node.outputs) if self.uses.get(v)}
        statements, writes, _ = self.returns(node)(self, made, wanted, bool(taps or asked))
        self.items.append(Item(worlds, statements, reads, writes))

    def may_be_none(self, source: str, found: Mapping[World, Any], worlds: Iterable[World]) -> bool:
        return source in self.worlds.optional and any(source not in w and found[w] == source for w in worlds)

    def finish(self, outputs: Mapping[str, str]) -> None:
        """The return statement; outputs that some worlds lack are added under their condition."""
        present = {k: self.worlds.where(lambda s, k=k: k in s.outputs) for k in outputs}
        sure = list(itertools.takewhile(lambda k: present[k] == self.worlds.all, outputs))
        reads: set[str] = set()

        def value(key: str) -> Any:
            found = {w: s.outputs[key] for w, s in self.worlds.slices.items() if key in s.outputs}
            kinds = set(found.values())
            expression, more = self.read(kinds.pop()) if len(kinds) == 1 else self.either(self.graph.resolve(outputs[key]), found)
            reads.update(more)
            return expression

        table = ast.Dict(keys=[constant(k) for k in sure], values=[value(k) for k in sure])
        if len(sure) == len(outputs):
            self.items.append(Item(self.worlds.all, [ast.Return(value=table)], reads, {" return"}))
            return
        out = self.variable(" out")
        rest = [k for k in outputs if k not in sure]
        self.items.append(Item(self.worlds.all, [assign(out, table)], set(reads), {out}))
        for key in rest:
            reads = {out, *(f" {k}" for k in rest[: rest.index(key)])}  # in the order of their declaration
            expression = value(key)
            statement = ast.Assign(targets=[item(name(out), constant(key))], value=expression)
            self.items.append(Item(present[key], [statement], reads, {f" {key}"}))
        self.items.append(Item(self.worlds.all, [ast.Return(value=name(out))], {out, *(f" {k}" for k in rest)}, {" return"}))

    def scheduled(self) -> list[Any]:
        """The items in an order that keeps those of one condition together."""
        left = list(self.items)
        current = self.worlds.all
        ordered: list[Item] = []
        while left:
            waiting = [{v for other in left if other is not i for v in other.writes} for i in left]
            ready = [i for i, w in zip(left, waiting) if not i.reads & w]
            last = [i for i in ready if i.writes != {" return"}] or ready
            same = [i for i in last if i.worlds == current]
            other = [i for i in last if i.worlds == self.worlds.all - current]
            chosen = (same or other or last)[0]
            if " return" in chosen.writes and len(left) > 1:
                raise AssertionError("a cycle among values")
            ordered.append(chosen)
            left.remove(chosen)
            current = chosen.worlds
        return self.nested(ordered)

    def nested(self, ordered: Sequence[Item]) -> list[Any]:
        body: list[Any] = []
        groups = [(worlds, list(items)) for worlds, items in itertools.groupby(ordered, key=lambda i: i.worlds)]
        index = 0
        while index < len(groups):
            worlds, items = groups[index]
            statements = [s for i in items for s in i.statements]
            test = self.worlds.condition(worlds)
            if test is None:
                body += statements
            else:
                orelse: list[Any] = []
                following = groups[index + 1] if index + 1 < len(groups) else None
                if following and following[0] == self.worlds.all - worlds:
                    orelse = [s for i in following[1] for s in i.statements]
                    index += 1
                body.append(ast.If(test=test, body=statements, orelse=orelse))
            index += 1
        return body


@dataclass
class CallNode:
    """A call of a component's module that is not yet an expression: how it is written depends on the module's class."""

    node: Node
    ports: dict[str, Any]
    options: dict[str, Any]


def shaped(statement: Any, type_: Type) -> Any:
    """A statement with the shape of what it makes behind it."""
    statement.trail = "# " + shape(type_)
    return statement


def shape(type_: Type) -> str:
    return f"[{', '.join((['...'] if type_.rest else []) + [str(d) for d in type_.dims])}]"
