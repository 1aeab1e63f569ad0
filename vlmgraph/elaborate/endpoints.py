"""What the ends of edges name: nodes and their ports, values, taps, slices, inline ops. Nothing is connected here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..components.base import Component, Ports
from ..diagnostics import Collector, Diagnostic, Label, Span
from ..diagnostics import codes as C
from ..ir.graph import SLICE, Node, Source
from ..ir.types import Type, tokens
from ..plugins import registry
from ..spec.edges import Bracket, Endpoint, Slice
from .configs import Configs


@dataclass
class Draft:
    """A node whose inputs are still being collected."""

    id: str
    component: str
    facet: str
    ports: Ports
    options: Mapping[str, Any]
    inputs: dict[str, Source] = field(default_factory=dict)
    label: Label | None = None
    taps: set[int] = field(default_factory=set)
    requested: set[str] = field(default_factory=set)
    """Outputs read by some edge that are not there by themselves."""


@dataclass(frozen=True)
class Scope:
    """Where names of an edge are looked up: `prefix` for nodes and components of an inner block."""

    prefix: str = ""
    inputs: frozenset[str] = frozenset()
    objective: str = ""
    ends: Mapping[str, str] = field(default_factory=dict)
    """Outputs of the block that are no nodes, and the values they are called by."""

    @property
    def loss(self) -> str:
        """The node of the objective whose edges these are."""
        return f"objective.{self.objective}" if self.objective else ""


@dataclass
class Block:
    """A use of an inner graph: its ports and the names of their values."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    types: Mapping[str, Type] = field(default_factory=dict)
    label: Label | None = None
    row: bool = False
    """Whether it is a row of uses, which have entries of their own."""


class Broken(Exception):
    """Follow-up of something reported already, or just reported: give up this edge."""


@dataclass
class Ends:
    """The names of one spec and what they stand for: the values that an edge may start from, the ports that it may end in."""

    found: Collector
    configs: Configs
    inputs: Mapping[str, Type]
    declared: Mapping[str, Type]
    """Declared outputs: the only names an edge may end in that are not nodes."""
    drafts: dict[str, Draft] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    slices: dict[str, Node] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    rebind: dict[str, dict[tuple[str, str], Source]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    entries: set[str] = field(default_factory=set)
    """Inputs of blocks: names inside the block alone. Outside `co.text` is the output of that name where one reads it."""
    lists: set[str] = field(default_factory=set)
    """List ports of blocks."""
    bundles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Values behind the list ports of blocks."""
    origins: dict[str, str] = field(default_factory=dict)
    """Nodes made for one value of a list, and the node of the spec that they come from."""
    copies: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Copies of several components: their values are those of the copied slice, `reference.logits`."""
    scores: dict[str, Draft] = field(default_factory=dict)
    """Losses that programs give, as nodes of the graph."""
    batches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The named batches of an objective."""
    batched: dict[tuple[str, str, str], None] = field(default_factory=dict)
    """The values of batches that are read: the objective, the batch, the value."""
    shadows: dict[tuple[str, str], None] = field(default_factory=dict)
    """The values of copies that are read: the copy and the value that it shadows."""
    left_out: Callable[[str, str], bool] = lambda table, name: False
    """Whether a table lacks a name only because of what is reported already."""

    UNKNOWN: ClassVar[str] = "?"
    """Stands for a value that is missing for a reason reported already: no port that it feeds dangles."""

    def sources(self, end: Endpoint, label: Label | None, scope: Scope, made: str | None, first: bool) -> list[str]:
        """The values an endpoint gives. Brackets after a tap or port become slice nodes."""
        at = narrow(label, end.start, end.end)
        brackets = list(end.brackets)
        if made is not None:
            return [self.sliced(made, brackets, self.drafts[made].ports, at)]
        if end.call is not None or self.is_inline(end, scope):
            self.found.add(Diagnostic(C.BAD_EDGE, f"{'.'.join(end.path)} takes a value, so an edge cannot start with it", at))
            raise Broken
        if end.path[0] in self.batches.get(scope.objective, ()):
            return self.of_batch(end, label, scope, at)
        if not scope.prefix and end.path[0] in self.copies:
            return self.shadowed(end, label, at)
        name, rest = self.lookup(end, scope, at)
        if name in self.drafts:
            draft = self.drafts[name]
            port = ".".join(rest)
            if port == "hidden":
                return self.taps(draft, brackets, at)
            if levels := listed(draft.ports.outputs, port):
                return self.levels(draft, levels, brackets, at)
            if port in draft.ports.inputs and not first:
                port = ""  # in the middle of a chain `b.k` is the port that was fed; b's output goes on
            if port == "tokens" and "tokens" not in draft.ports.outputs:
                port = ""
            if port and port not in draft.ports.outputs:
                self.unknown_port(draft, port, draft.ports.outputs, "output", at)
            value = name if not port or port == next(iter(draft.ports.outputs)) else f"{name}.{port}"
            draft.requested.add(port)
            return [self.sliced(value, brackets, None, at)]
        if name in self.blocks:
            block = self.blocks[name]
            fed = bool(rest) and rest[0] in block.inputs and not first  # in the middle of a chain: the port that was fed
            port = ".".join(rest) if rest and not fed else next(iter(block.outputs), "")
            if port not in block.outputs:
                self.unknown_block_port(name, "output", port, block.outputs, at)
            return [self.sliced(block.outputs[port], brackets, None, at)]
        if rest:
            self.found.add(Diagnostic(C.UNKNOWN_PORT, f"{name} is a value and has no port {'.'.join(rest)!r}", at))
            raise Broken
        return [self.sliced(name, brackets, None, at)]

    def destination(self, end: Endpoint, label: Label | None, scope: Scope, made: dict[int, str]) -> tuple[str, str]:
        """The node and port an endpoint receives at; an inline op becomes a node here."""
        at = narrow(label, end.start, end.end)
        if end.call is not None or self.is_inline(end, scope):
            node = self.inline(end, at, scope)
            made[id(end)] = node
            return node, next(iter(self.drafts[node].ports.inputs))
        name, rest = self.lookup(end, scope, at, writing=True)
        if name in self.drafts:
            draft = self.drafts[name]
            port = ".".join(rest)
            if not port or (port not in draft.ports.inputs and (port in draft.ports.outputs or port in ("hidden", "tokens"))):
                if not draft.ports.inputs:
                    self.found.add(Diagnostic(C.UNKNOWN_PORT, f"{name} takes no input", at))
                    raise Broken
                return name, next(iter(draft.ports.inputs))
            if port not in draft.ports.inputs:
                self.unknown_port(draft, port, draft.ports.inputs, "input", at)
            return name, port
        if name in self.blocks:
            block = self.blocks[name]
            port = ".".join(rest)
            if not port or (port not in block.inputs and port in block.outputs):
                port = next(iter(block.inputs), "")
            if port not in block.inputs:
                self.unknown_block_port(name, "input", port, block.inputs, at)
            return block.inputs[port], ""
        if name in self.inputs or rest:
            self.found.add(Diagnostic(C.BAD_EDGE, f"{'.'.join(end.path)} is an input: nothing can lead into it", at))
            raise Broken
        return name, ""

    def lookup(self, end: Endpoint, scope: Scope, at: Label | None, writing: bool = False) -> tuple[str, tuple[str, ...]]:
        """The longest known name at the front of a path, and what is left of the path."""
        if writing and end.path[0] in scope.ends and len(end.path) == 1:
            return scope.ends[end.path[0]], ()
        if scope.objective and end.path[0] == scope.objective:
            if scope.loss in self.broken:
                raise Broken
            return scope.loss, end.path[1:]
        for length in range(len(end.path), 0, -1):
            name = scope.prefix + ".".join(end.path[:length])
            if name in self.broken:
                raise Broken
            if name in self.drafts or name in self.blocks or name in scope.inputs or (name in self.aliases and name not in self.entries):
                return name, end.path[length:]
            if not scope.prefix and (name in self.declared or name in self.inputs):
                return name, end.path[length:]
        known = [
            n.removeprefix(scope.prefix)
            for n in (*self.drafts, *self.blocks, *self.declared, *self.inputs, *scope.inputs, *self.broken)
            if n.startswith(scope.prefix)
        ]
        wanted = end.path[0]
        if not scope.prefix and any(self.left_out(table, wanted) for table in ("components", "nodes", "inputs", "outputs")):
            raise Broken
        near = difflib.get_close_matches(wanted, known, 1)
        code = C.UNDECLARED_OUTPUT if writing and len(end.path) == 1 else C.UNKNOWN_NODE
        note = (
            "an edge ends at a component, a node or a declared output"
            if writing
            else "an edge starts at an input, a component, a node or a declared output"
        )
        facets = self.configs.built[wanted].facets if wanted in self.configs.built else ()
        if facets:
            note = f"{wanted} is used through its facets: " + ", ".join(f"{wanted}.{f}" for f in facets) + "; declare a node with `uses`"
        fix = (
            f"did you mean {near[0]!r}?"
            if near
            else (f'declare it: [outputs] {wanted} = "kind[...]"' if code == C.UNDECLARED_OUTPUT else None)
        )
        self.found.add(
            Diagnostic(
                code,
                f"there is no {'component, node or output' if writing else 'component, node or input'} {wanted!r}",
                at,
                notes=(note,),
                fix=fix,
            )
        )
        raise Broken

    def unknown_block_port(self, name: str, direction: str, port: str, ports: Mapping[str, str], at: Label | None) -> None:
        known = ", ".join(ports) or "none"
        text = f"{name} has no {direction} {port!r}" if port else f"{name} has no {direction}"
        near = difflib.get_close_matches(port, list(ports), 1)
        fix = f"did you mean {near[0]!r}?" if near else None
        self.found.add(Diagnostic(C.UNKNOWN_PORT, text, at, notes=(f"{direction}s: {known}",), fix=fix))
        raise Broken

    def unknown_port(self, draft: Draft, port: str, ports: Mapping[str, Type], direction: str, at: Label | None) -> None:
        near = difflib.get_close_matches(port, list(ports), 1)
        declared = (replace(draft.label, text=f"{draft.id} is declared here"),) if draft.label else ()
        listed = ", ".join(f"{name}: {type_}" for name, type_ in ports.items())
        self.found.add(
            Diagnostic(
                C.UNKNOWN_PORT,
                f"{draft.id} has no {direction} port {port!r}",
                at,
                declared,
                (f"{direction}s: {listed}",),
                f"did you mean {near[0]!r}?" if near else None,
            )
        )
        raise Broken

    # ---- inline ops

    def is_inline(self, end: Endpoint, scope: Scope) -> bool:
        name = ".".join(end.path)
        return len(end.path) > 1 and scope.prefix + end.path[0] not in self.drafts and name in registry().points

    def inline(self, end: Endpoint, at: Label | None, scope: Scope) -> str:
        kind = ".".join(end.path)
        cls = self.configs.component_class_at(kind, at)
        if cls is None:
            raise Broken
        args = end.call.args if end.call else ()
        fields: dict[str, Any] = dict(zip(cls.model_fields, args, strict=False))
        fields.update(dict(end.call.kwargs) if end.call else {})
        config = self.configs.validate_at(cls, fields, at)
        if config is None:
            raise Broken
        base = scope.prefix + (f"{scope.loss}." if scope.objective else "") + end.path[-1]
        self.counters[base] = self.counters.get(base, 0) + 1
        id_ = f"{base}_{self.counters[base]}"
        while id_ in self.drafts or id_ in self.configs.tables or id_ in self.inputs or id_ in self.declared:
            self.counters[base] += 1
            id_ = f"{base}_{self.counters[base]}"
        self.configs.built[id_] = config
        self.drafts[id_] = Draft(id_, id_, "", config.signature(), {}, label=at)
        self.note(f"node:{id_}", at)
        return id_

    # ---- lists, taps and slices

    def shadowed(self, end: Endpoint, label: Label | None, at: Label | None) -> list[str]:
        """`reference.logits`: the value that `logits` has in the slice made of the copies."""
        copy = end.path[0]
        if len(end.path) == 1:
            text = f"{copy} copies several components: say which value of them, {copy}.NAME"
            self.found.add(Diagnostic(C.UNKNOWN_PORT, text, at, notes=("copies: " + ", ".join(sorted(self.copies[copy])),)))
            raise Broken
        if end.path[1] in self.copies:
            self.found.add(Diagnostic(C.UNKNOWN_PORT, f"{copy} copies components, and {end.path[1]} is a copy itself", at))
            raise Broken
        values = self.sources(replace(end, path=end.path[1:]), label, Scope(), None, first=True)
        self.shadows.update(((copy, value), None) for value in values)
        return [f"{copy}.{value}" for value in values]

    def of_batch(self, end: Endpoint, label: Label | None, scope: Scope, at: Label | None) -> list[str]:
        """`chosen.logits`: the value that `logits` has on an objective's batch of that name."""
        batch = end.path[0]
        if len(end.path) == 1:
            text = f"{batch} is a batch: say which value of it, {batch}.NAME"
            self.found.add(Diagnostic(C.UNKNOWN_PORT, text, at, notes=("batches: " + ", ".join(self.batches[scope.objective]),)))
            raise Broken
        values = self.sources(replace(end, path=end.path[1:]), label, Scope(), None, first=True)
        return [self.on_batch(scope.objective, batch, value) for value in values]

    def on_batch(self, objective: str, batch: str, value: str) -> str:
        self.batched[objective, batch, value] = None
        return f"objective.{objective}.{batch}.{value}"

    def on_every_batch(self, objective: str, values: Sequence[str]) -> list[str]:
        """What enters a list port of a loss over several batches: of values that belong to none of them those of each, in order."""
        own = f"objective.{objective}."
        spread = [value for value in values if not value.startswith(own) and value != self.UNKNOWN]
        rest = [value for value in values if value not in spread]
        return rest + [self.on_batch(objective, batch, value) for batch in self.batches.get(objective, ()) for value in spread]

    def levels(self, draft: Draft, levels: list[str], brackets: list[Bracket], at: Label | None) -> list[str]:
        """`fpn.maps` are all values of a list output, `fpn.maps[0, 2]` some of them, in this order; what follows slices each."""
        chosen = list(range(len(levels)))
        if brackets:
            chosen = []
            for item in brackets[0].items:
                if not isinstance(item, int) or not -len(levels) <= item < len(levels):
                    name = levels[0].rpartition(".")[0]
                    text = (
                        f"{draft.id}.{name} is a list of {len(levels)}: an index is from 0 to {len(levels) - 1}, or negative from the end"
                    )
                    self.found.add(Diagnostic(C.BAD_TAP, text, at))
                    raise Broken
                chosen.append(item % len(levels))
        first = next(iter(draft.ports.outputs))
        values = [draft.id if levels[i] == first else f"{draft.id}.{levels[i]}" for i in chosen]
        return [self.sliced(value, brackets[1:], None, at) for value in values]

    def taps(self, draft: Draft, brackets: list[Bracket], at: Label | None) -> list[str]:
        count = self.config(draft).hidden_states()
        if count is None or not brackets:
            text = f"{draft.id} has no hidden states" if count is None else "hidden needs an index: hidden[-2]"
            self.found.add(Diagnostic(C.BAD_TAP, text, at))
            raise Broken
        indices: list[int] = []
        for item in brackets[0].items:
            if not isinstance(item, int) or not -count <= item < count:
                self.found.add(
                    Diagnostic(C.BAD_TAP, f"hidden[{item}] of {draft.id}: there are {count} states, 0 to {count - 1} or {-count} to -1", at)
                )
                raise Broken
            indices.append(item % count)
        draft.taps.update(indices)
        return [self.sliced(f"{draft.id}.hidden.{i}", brackets[1:], None, at) for i in indices]

    def config(self, draft: Draft) -> Component:
        return self.configs.built[draft.component]

    def sliced(self, value: str, brackets: Sequence[Bracket], _ports: Ports | None, at: Label | None) -> str:
        """`value[1:]` along the token dim (ids: the last dim); an integer selects and drops the dim."""
        for bracket in brackets:
            if len(bracket.items) != 1 or isinstance(bracket.items[0], str):
                self.found.add(Diagnostic(C.BAD_SLICE, "a token slice is one number or one range: [0], [1:], [:T]", at))
                raise Broken
            item = bracket.items[0]
            if isinstance(item, Slice):
                if item.step not in (None, 1):
                    self.found.add(Diagnostic(C.BAD_SLICE, "a token slice has no step", at))
                    raise Broken
                options: dict[str, Any] = {"start": item.start, "stop": item.stop}
                shown = f"{'' if item.start is None else item.start}:{'' if item.stop is None else item.stop}"
            else:
                options, shown = {"index": item}, str(item)
            name = f"{value}[{shown}]"
            if name not in self.slices:
                self.slices[name] = Node(name, SLICE, inputs={"x": value}, outputs={"out": tokens["B", "N", "d"]}, options=options)
                self.note(f"node:{name}", at)
            value = name
        return value

    def note(self, key: str, label: Label | None) -> None:
        if label:
            self.labels[key] = label


def listed(outputs: Mapping[str, Type], port: str) -> list[str]:
    """The ports `maps.0`, `maps.1`, ... of the list output `maps`; no port named means the default output, where that is a list."""
    if not port:
        first = next(iter(outputs), "")
        port = first.removesuffix(".0") if first.endswith(".0") else ""
    found: list[str] = []
    while port and f"{port}.{len(found)}" in outputs:
        found.append(f"{port}.{len(found)}")
    return found


def narrow(label: Label | None, start: int, end: int) -> Label | None:
    """The part of a one-line string's label between two offsets of the string."""
    if label is None or label.span.line != label.span.end_line:
        return label
    span = label.span
    first = span.column + 1 + start  # the opening quote
    last = min(span.column + 1 + max(end, start + 1), span.end_column)
    return Label(Span(span.file, span.line, min(first, last - 1), span.line, last), label.text)
