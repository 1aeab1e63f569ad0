"""The edge notation: `a -> b.port`, chains, fan-out and fan-in, taps, slices, inline ops."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 20_000
MAX_DEPTH = 20
"""Lists inside lists in the arguments of an inline op."""
MAX_DIGITS = 18


class EdgeError(ValueError):
    """An edge that cannot be read; `offset` counts characters from the start of the string."""

    def __init__(self, message: str, offset: int) -> None:
        self.offset = offset
        super().__init__(message)


@dataclass(frozen=True)
class Slice:
    start: int | str | None
    stop: int | str | None
    step: int | None = None


@dataclass(frozen=True)
class Bracket:
    """What stands in `[...]`: numbers, names, ranges."""

    items: tuple[Slice | int | str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Call:
    """The arguments of an inline op, literals only."""

    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Endpoint:
    """`vision.hidden[-2][1:]`: a dotted path, then brackets. `op.pixel_shuffle(2)`: a path and a call."""

    path: tuple[str, ...]
    brackets: tuple[Bracket, ...] = ()
    call: Call | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True, eq=False)
class Group:
    """`[a, b]`: fan-out where it receives, ordered fan-in where it gives."""

    items: tuple[Endpoint, ...]
    start: int = 0
    end: int = 0


@dataclass(frozen=True, eq=False)
class Chain:
    links: tuple[Endpoint | Group, ...]


_TOKEN = re.compile(r"""(?:(->)|([A-Za-z_][A-Za-z0-9_]*)|(-?\d+\.\d+|-?\d+)|("(?:[^"\\]|\\.)*"|'[^']*')|([][().,:=]))""")


def parse_edge(text: str) -> Chain:
    """Read one edge. Raises EdgeError with the offset of the fault."""
    return _Parser(text).chain()


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise EdgeError("the edge is too long", 0)
        self.text = text
        self.tokens: list[tuple[str, int, int]] = []
        at = 0
        while (at := _blank(text, at)) < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise EdgeError(f"unexpected {text[at]!r}", at)
            if len(match.group()) > MAX_DIGITS and match[3]:
                raise EdgeError("the number is too long", at)
            self.tokens.append((match.group(), at, match.end()))
            at = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def offset(self) -> int:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)

    def last_end(self) -> int:
        return self.tokens[self.at - 1][2]

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            found = repr(token) if token else "the end"
            raise EdgeError(f"expected {wanted!r}, found {found}" if wanted else "the edge ends too early", self.offset())
        self.at += 1
        return token

    def chain(self) -> Chain:
        links = [self.link()]
        while self.peek() == "->":
            self.take()
            links.append(self.link())
        if self.peek():
            raise EdgeError(f"unexpected {self.peek()!r}", self.offset())
        return Chain(tuple(links))

    def link(self) -> Endpoint | Group:
        if self.peek() != "[":
            return self.endpoint()
        start = self.offset()
        self.take("[")
        items = [self.endpoint()]
        while self.peek() == ",":
            self.take()
            items.append(self.endpoint())
        self.take("]")
        return Group(tuple(items), start, self.last_end())

    def name(self) -> str:
        token = self.peek()
        if not re.fullmatch(r"[A-Za-z_]\w*", token):
            raise EdgeError(f"expected a name, found {token!r}" if token else "expected a name, found the end", self.offset())
        return self.take()

    def endpoint(self) -> Endpoint:
        start = self.offset()
        path, brackets = [self.name()], []
        while self.peek() in (".", "["):
            if self.peek() == ".":
                self.take()
                path.append(self.name())
            else:
                brackets.append(self.bracket())
        call = self.call() if self.peek() == "(" else None
        return Endpoint(tuple(path), tuple(brackets), call, start, self.last_end())

    def bracket(self) -> Bracket:
        start = self.offset()
        self.take("[")
        items = [self.item()]
        while self.peek() == ",":
            self.take()
            items.append(self.item())
        self.take("]")
        return Bracket(tuple(items), start, self.last_end())

    def item(self) -> Slice | int | str:
        first = None if self.peek() == ":" else self.bound()
        if self.peek() != ":":
            assert first is not None
            return first
        self.take(":")
        stop = None if self.peek() in (":", "]", ",") else self.bound()
        step = None
        if self.peek() == ":":
            self.take()
            at, value = self.offset(), self.bound()
            if not isinstance(value, int):
                raise EdgeError(f"a step is a number, found {value!r}", at)
            step = value
        return Slice(first, stop, step)

    def bound(self) -> int | str:
        token = self.take()
        if re.fullmatch(r"-?\d+", token):
            return int(token)
        if re.fullmatch(r"[A-Za-z_]\w*", token):
            return token
        raise EdgeError(f"expected a number or a dim, found {token!r}", self.tokens[self.at - 1][1])

    def call(self) -> Call:
        self.take("(")
        args: list[Any] = []
        kwargs: list[tuple[str, Any]] = []
        while self.peek() != ")":
            named = self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][0] == "="
            if named:
                key = self.name()
                self.take("=")
                kwargs.append((key, self.literal()))
            else:
                args.append(self.literal())
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return Call(tuple(args), tuple(kwargs))

    def literal(self, depth: int = 0) -> Any:
        if self.peek() == "[":
            if depth == MAX_DEPTH:
                raise EdgeError(f"lists are nested more than {MAX_DEPTH} deep", self.offset())
            self.take()
            items = []
            while self.peek() != "]":
                items.append(self.literal(depth + 1))
                if self.peek() != "]":
                    self.take(",")
            self.take("]")
            return items
        offset, token = self.offset(), self.take()
        if token[0] in "\"'":
            return token[1:-1]
        if re.fullmatch(r"-?\d+", token):
            return int(token)
        if re.fullmatch(r"-?\d+\.\d+", token):
            return float(token)
        if token in ("true", "false"):
            return token == "true"
        raise EdgeError(f"an argument is a literal, found {token!r}", offset)
