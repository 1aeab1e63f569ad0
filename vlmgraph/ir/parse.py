"""Reads the text form of a graph. Every line that cannot be read is a finding at its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..diagnostics import Diagnostic, DiagnosticError, Label, Span
from ..diagnostics import codes as C
from .dims import DimError
from .graph import CALL, OPS, Copy, Graph, Node, Objective, Program, Source, Stage
from .types import Type, parse_type


class TextError(DiagnosticError):
    """A graph text that cannot be read; carries one finding a line."""


def parse_graph(text: str, file: str = "graph.txt") -> Graph:
    """The graph that `print_graph` wrote. Raises TextError with every line that cannot be read; whether the graph that the lines
    make holds together is the verifier's to say (`vlmgraph.ir.verify`)."""
    reader = _Reader(file)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            reader.read(_Line(line, number, file))
    if reader.found:
        raise TextError(*reader.found)
    return reader.graph()


class _Unread(Exception):
    def __init__(self, message: str, start: int, end: int, fix: str | None = None) -> None:
        self.message, self.start, self.end, self.fix = message, start, end, fix
        super().__init__(message)


NAME = re.compile(r"[A-Za-z_][\w.]*")
VALUE = re.compile(r"[A-Za-z_](?:[\w.]|\[[^\]\s]*\])*")
"""Names of values: ports, taps and slices, `vision.hidden.23[1:]`."""
TYPE = re.compile(r"[a-z]+\[[^\]]*\](?:\*\w*)?\??")
ADDRESS = re.compile(r"[^\s=]+")
KIND = re.compile(r"[a-z_]\w*(?:\.\w+)+")


@dataclass
class _Line:
    """One line and how far it is read."""

    text: str
    number: int
    file: str
    at: int = 0

    def label(self, start: int, end: int, text: str = "") -> Label:
        return Label(Span(self.file, self.number, start + 1, self.number, max(end, start + 1) + 1), text)

    def skip(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def sees(self, literal: str) -> bool:
        """Take the literal when it is next."""
        self.skip()
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def take(self, literal: str) -> None:
        if not self.sees(literal):
            raise self.expected(repr(literal))

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.at)
        if not found:
            raise self.expected(what)
        self.at = found.end()
        return found.group()

    def expected(self, what: str) -> _Unread:
        rest = self.text[self.at :].split(" ")[0]
        return _Unread(
            f"expected {what}, found {rest[:40]!r}" if rest else f"expected {what}, found the end of the line", self.at, self.at + len(rest)
        )

    def json(self) -> Any:
        self.skip()
        start = self.at
        try:
            value, end = json.JSONDecoder().raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            raise _Unread(f"not JSON: {error.msg}", error.pos, error.pos + 1) from error
        except RecursionError as error:
            raise _Unread("not JSON: nested too deep", start, len(self.text)) from error
        self.at = end
        return value

    def table(self) -> dict[str, Any]:
        self.skip()
        start = self.at
        value = self.json()
        if not isinstance(value, dict):
            raise _Unread("expected a table, { ... }", start, self.at)
        return value

    def type(self) -> Type:
        self.skip()
        start = self.at
        text = self.match(TYPE, "a type")
        try:
            return parse_type(text, unknowns=True)
        except DimError as error:
            raise _Unread(str(error), start, self.at) from error

    def value(self) -> str:
        self.take("%")
        return self.match(VALUE, "the name of a value")

    def end(self) -> None:
        self.skip()
        if self.at < len(self.text):
            raise self.expected("the end of the line")


@dataclass
class _Reader:
    file: str
    found: list[Diagnostic] = field(default_factory=list)
    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    ties: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    objective: str = ""

    def read(self, line: _Line) -> None:
        start = len(line.text) - len(line.text.lstrip(" "))
        try:
            if start:
                self.own_node(line)
            else:
                word = re.match(r"\w*", line.text).group()  # type: ignore[union-attr]
                read = self.words().get(word)
                if read is not None and not line.text.startswith(" :=", len(word)):
                    line.at = len(word)
                    read(line)
                else:
                    self.nodes.append(self.node(line, "node"))
            line.end()
        except _Unread as error:
            label = line.label(error.start, error.end)
            self.found.append(Diagnostic(C.BAD_GRAPH_TEXT, error.message, label, fix=error.fix))

    def words(self) -> Mapping[str, Callable[[_Line], None]]:
        return {
            "graph": self.graph_name, "token": self.token, "input": self.declared, "output": self.declared, "component": self.component,
            "copy": self.copy, "carries": self.carries, "alias": self.alias, "tie": self.tie, "program": self.program,
            "objective": self.start_objective, "stage": self.stage, "inference": self.procedure, "expect": self.expect,
        }  # fmt: skip

    def put(self, table: str, key: str, value: Any, line: _Line, start: int) -> None:
        there = self.tables.setdefault(table, {})
        if key in there:
            raise _Unread(f"a second {key!r} among the {table}", start, start + len(key))
        there[key] = value

    # ---- one kind of line each

    def graph_name(self, line: _Line) -> None:
        self.name = str(line.json())

    def token(self, line: _Line) -> None:
        line.skip()
        start = line.at
        key = str(line.json())
        line.take("=")
        self.put("tokens", key, int(line.match(re.compile(r"\d+"), "a token id")), line, start)

    def declared(self, line: _Line) -> None:
        table = "inputs" if line.text.startswith("input") else "outputs"
        key, start = self.key(line)
        line.take(":")
        self.put(table, key, line.type(), line, start)
        self.labels[f"{table[:-1]}:{key}"] = line.label(start, start + len(key))

    def key(self, line: _Line, pattern: re.Pattern[str] = NAME) -> tuple[str, int]:
        line.skip()
        start = line.at
        return line.match(pattern, "a name"), start

    def component(self, line: _Line) -> None:
        from ..plugins import PluginError, registry

        key, start = self.key(line)
        line.take("=")
        line.skip()
        at = line.at
        kind = line.match(KIND, "the type of a component")
        end = line.at
        fields = line.table()
        try:
            cls = registry().load(kind)
        except PluginError as error:
            fix = f"did you mean {error.near[0]!r}?" if error.near else None
            raise _Unread(f"there is no component type {kind!r} here: {error.reason} {error.detail}".rstrip(": "), at, end, fix) from error
        self.put("components", key, self.config(cls, kind, fields, at, end), line, start)
        self.labels[f"component:{key}"] = line.label(start, start + len(key))

    def config(self, cls: Any, kind: str, fields: dict[str, Any], start: int, end: int) -> Any:
        try:
            return cls(**fields)
        except (ValueError, TypeError) as error:  # pydantic's findings are a ValueError
            findings = error.errors() if hasattr(error, "errors") else []
            shown = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in findings) or str(error)
            raise _Unread(f"{kind}: {shown}", start, end) from error

    def copy(self, line: _Line) -> None:
        key, start = self.key(line)
        line.take("=")
        of, rule = line.match(NAME, "a component"), line.table()
        self.put("copies", key, Copy(of, rule.get("ema"), rule.get("when", "after")), line, start)

    def carries(self, line: _Line) -> None:
        line.skip()
        start = line.at
        self.put("companions", line.value(), line.table(), line, start)

    def alias(self, line: _Line) -> None:
        key, start = self.key(line, VALUE)
        line.take("=")
        self.put("aliases", key, line.value(), line, start)

    def tie(self, line: _Line) -> None:
        left = line.match(ADDRESS, "a parameter")
        line.take("=")
        self.ties.append((left, line.match(ADDRESS, "a parameter")))

    def program(self, line: _Line) -> None:
        key, start = self.key(line)
        self.put("programs", key, self.made(Program, line, ("outputs", "inputs", "without", "cache", "carry")), line, start)

    def stage(self, line: _Line) -> None:
        key, start = self.key(line, re.compile(r"[\w.-]+"))
        self.put("stages", key, self.made(Stage, line, ("train", "freeze")), line, start)

    def made(self, cls: Any, line: _Line, lists: tuple[str, ...]) -> Any:
        line.skip()
        start = line.at
        fields = line.table()
        try:
            return cls(**{k: tuple(v) if k in lists and v is not None else v for k, v in fields.items()})
        except TypeError as error:
            raise _Unread(str(error).replace(f"{cls.__name__}.__init__() ", ""), start, line.at) from error

    def start_objective(self, line: _Line) -> None:
        key, start = self.key(line)
        line.skip()
        at = line.at
        fields = line.table()
        self.objective = key
        try:
            rebind = {(id, port): s if isinstance(s, str) else tuple(s) for id, port, s in fields.get("rebind", [])}
            inputs = {name: parse_type(text) for name, text in fields.get("inputs", {}).items()}
            self.put("objectives", key, (str(fields["loss"]), rebind, str(fields.get("when", "")), inputs, []), line, start)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _Unread("an objective has `loss` and `rebind`, a list of [node, port, source]", at, line.at) from error

    def own_node(self, line: _Line) -> None:
        own = self.tables.get("objectives", {}).get(self.objective)
        line.skip()
        if own is None:
            raise _Unread("an indented line is a node of an objective, and no objective is before it", line.at, len(line.text))
        own[-1].append(self.node(line, "node"))

    def procedure(self, line: _Line) -> None:
        from ..components.inference import KINDS

        key, start = self.key(line, re.compile(r"[\w.-]+"))
        line.take("=")
        line.skip()
        at = line.at
        kind = line.match(KIND, "the type of a procedure")
        end = line.at
        if kind not in KINDS:
            raise _Unread(f"there is no procedure type {kind!r}", at, end)
        self.put("procedures", key, self.config(KINDS[kind], kind, line.table(), at, end), line, start)

    def expect(self, line: _Line) -> None:
        self.tables["expect"] = line.table()

    # ---- nodes

    def node(self, line: _Line, word: str) -> Node:
        id, start = self.key(line, VALUE)
        line.take(":=")
        line.skip()
        at = line.at
        op = line.match(re.compile(r"\w+"), "an operation")
        if op not in OPS:
            raise _Unread(f"there is no operation {op!r}", at, line.at, f"operations: {', '.join(OPS)}")
        component = line.match(NAME, "a component") if op == CALL else ""
        facet = line.match(NAME, "a facet") if line.sees("@") else ""
        line.take("(")
        inputs: dict[str, Source] = {}
        while not line.sees(")"):
            if inputs:
                line.take(",")
            port = line.match(NAME, "an input port")
            line.take("=")
            inputs[port] = self.source(line)
        line.take("->")
        outputs: dict[str, Type] = {}
        while not outputs or line.sees(","):
            port = line.match(NAME, "an output port")
            line.take(":")
            outputs[port] = line.type()
        line.skip()
        options = line.table() if line.at < len(line.text) else {}
        self.labels[f"{word}:{id}"] = line.label(start, start + len(id))
        return Node(id, op, component, facet, inputs, outputs, options)

    def source(self, line: _Line) -> Source:
        if not line.sees("["):
            return line.value()
        values: list[str] = []
        while not line.sees("]"):
            if values:
                line.take(",")
            values.append(line.value())
        return tuple(values)

    def graph(self) -> Graph:
        tables = dict(self.tables)
        objectives = {
            k: Objective(loss, tuple(nodes), rebind, when, inputs)
            for k, (loss, rebind, when, inputs, nodes) in tables.pop("objectives", {}).items()
        }
        inputs, components = tables.pop("inputs", {}), tables.pop("components", {})
        nodes, ties = tuple(self.nodes), tuple(self.ties)
        return Graph(self.name, inputs, components, nodes, ties=ties, objectives=objectives, labels=self.labels, **tables)  # type: ignore[arg-type]
