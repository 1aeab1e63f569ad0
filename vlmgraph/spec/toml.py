"""TOML with places: values from the standard library, positions from a scanner of our own."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from ..diagnostics import Diagnostic, Label, Span
from ..diagnostics import codes as C

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Path = tuple[str | int, ...]
MAX_BYTES = 4_000_000
MAX_DEPTH = 100


@dataclass(frozen=True)
class KeySpan:
    """Where a key and its value stand; a table's value is its header or its braces."""

    key: Span
    value: Span


@dataclass
class Document:
    """One file: values, places, and what is wrong with it as TOML."""

    file: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    spans: dict[Path, KeySpan] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)


def read_toml(text: str, file: str) -> Document:
    """Parse TOML. A broken file gives one diagnostic at the place of the fault, and the places of the part before it."""
    text = text.removeprefix("\ufeff")
    document = Document(file, text)
    if len(text) > MAX_BYTES:
        document.diagnostics.append(
            _bad(f"the file has {len(text):,} characters; a spec has at most {MAX_BYTES:,}", Span(file, 1, 1, 1, 2))
        )
        return document
    scanner = _Scanner(text, file)
    document.spans = scanner.spans
    try:
        scanner.scan()
    except _TooDeep as error:
        document.diagnostics.append(_bad(f"nested more than {MAX_DEPTH} levels deep", error.place))
        return document
    try:
        document.data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:  # int() raises a plain ValueError for thousands of digits
        document.diagnostics.append(_syntax(str(error), text, file, scanner))
    return document


def _bad(message: str, place: Span, *, said: str = "", other: Label | None = None, fix: str | None = None) -> Diagnostic:
    return Diagnostic(C.BAD_TOML, message, Label(place, said), (other,) if other else (), fix=fix)


_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_DUPLICATE = re.compile(r"overwrite|twice|Cannot (?:declare|mutate|redefine)|Duplicate")
_DIGITS = re.compile(r"[0-9_]{4301,}")


def _syntax(message: str, text: str, file: str, scanner: _Scanner) -> Diagnostic:
    """The parser's message at its place; a key that stands twice is shown at both."""
    twice = scanner.twice
    if scanner.reopened is not None and twice is None and _DUPLICATE.search(message):
        return _bad(
            "not TOML: a table in braces, or a list, is whole as it is written",
            scanner.reopened[0],
            said="this would add to it",
            other=Label(scanner.reopened[1], "it ends here"),
            fix="write the key inside the braces, or the table under a header of its own",
        )
    if twice is not None and _DUPLICATE.search(message):
        return _bad(
            "not TOML: a key or table is defined twice",
            twice[0],
            said="again here",
            other=Label(twice[1], "first here"),
            fix="keep one of them",
        )
    match, digits = _PLACE.search(message), _DIGITS.search(text)
    if match and match[1]:
        line, column = int(match[1]), int(match[2])
    else:
        at = digits.start() if digits and not match else len(text.rstrip())
        line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    words = _PLACE.sub("", message)
    if words.startswith("Illegal character '\\n'"):
        return _bad("not TOML: a string is not closed on its line", Span(file, line, column, line, column + 1), said="the quote is missing")
    if digits and not match:
        words = "a number has thousands of digits"
    return _bad(
        f"not TOML: {words[:1].lower()}{words[1:]}", Span(file, line, column, line, column + 1), said="here" if match and match[1] else ""
    )


class _Stop(Exception):
    """The scanner met something that is not TOML."""


class _TooDeep(Exception):
    """More levels than a spec can mean, and than recursion should follow."""

    def __init__(self, place: Span) -> None:
        self.place = place


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^\s,\]}#]+(?: \d\d:\d\d[^\s,\]}#]*)?")


class _Scanner:
    """Walks a TOML text once and notes where each key and value stands."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 0
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.spans: dict[Path, KeySpan] = {}
        self.counts: dict[Path, int] = {}
        self.defined: dict[Path, Span] = {}
        self.twice: tuple[Span, Span] | None = None
        """The first key or table that is defined a second time, and where it was first."""
        self.closed: dict[Path, Span] = {}
        self.reopened: tuple[Span, Span] | None = None
        """The first key that adds to what was written in one piece, and that piece."""

    def scan(self) -> None:
        """Fill `spans` up to the end, or to what is not TOML: the parser reports that. Raises _TooDeep."""
        table: Path = ()
        try:
            while True:
                self.skip(_BLANK)
                if self.at >= len(self.text):
                    break
                if self.text[self.at] == "[":
                    table = self.header()
                else:
                    self.pair(table, 0)
                self.skip(_SPACE)
                if self.peek() not in ("", "\n", "\r", "#"):
                    raise _Stop
        except _Stop:
            pass

    def define(self, path: Path, place: Span) -> None:
        first = self.defined.setdefault(path, place)
        if first is not place and self.twice is None:
            self.twice = (place, first)

    def reach(self, path: Path, place: Span) -> None:
        for n in range(1, len(path)):
            if path[:n] in self.closed and self.reopened is None:
                self.reopened = (place, self.closed[path[:n]])

    def peek(self, n: int = 1) -> str:
        return self.text[self.at : self.at + n]

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()

    def expect(self, char: str) -> None:
        if self.peek(len(char)) != char:
            raise _Stop
        self.at += len(char)

    def span(self, start: int, end: int) -> Span:
        line, last = bisect_right(self.starts, start), bisect_right(self.starts, max(start, end - 1))
        return Span(self.file, line, start - self.starts[line - 1] + 1, last, end - self.starts[last - 1] + 1)

    def header(self) -> Path:
        start = self.at
        many = self.peek(2) == "[["
        self.expect("[[" if many else "[")
        keys = self.keys()
        self.expect("]]" if many else "]")
        where = self.span(start, self.at)
        path: Path = ()
        self.reach((*(key for key, _ in keys), ""), keys[-1][1])
        for i, (key, place) in enumerate(keys):
            path = (*path, key)
            last = i == len(keys) - 1
            if last and many:
                index = self.counts.get(path, -1) + 1
                self.counts[path] = index
                self.spans.setdefault(path, KeySpan(place, where))
                path = (*path, index)
                self.spans[path] = KeySpan(place, where)
            else:
                self.spans.setdefault(path, KeySpan(place, where))
                if path in self.counts:
                    path = (*path, self.counts[path])
                elif last:
                    self.define(path, place)
        return path

    def keys(self) -> list[tuple[str, Span]]:
        found = []
        while True:
            self.skip(_SPACE)
            start = self.at
            if self.peek() in ('"', "'"):
                key = _decoded(self.string())
            else:
                match = _BARE.match(self.text, self.at)
                if not match:
                    raise _Stop
                key, self.at = match.group(), match.end()
            found.append((key, self.span(start, self.at)))
            if len(found) > MAX_DEPTH:
                raise _TooDeep(found[-1][1])
            self.skip(_SPACE)
            if self.peek() != ".":
                return found
            self.at += 1

    def pair(self, table: Path, depth: int) -> None:
        keys = self.keys()
        self.expect("=")
        self.skip(_SPACE)
        start = self.at
        path = table
        for key, _ in keys:
            path = (*path, key)
        if len(path) > MAX_DEPTH:
            raise _TooDeep(keys[-1][1])
        if depth == 0:
            self.reach(path, keys[-1][1])
        self.define(path, keys[-1][1])
        opening = self.peek()
        self.value(path, depth)
        where = self.span(start, self.at)
        if opening in ("{", "["):
            self.closed[path] = where
        inner = table
        for key, place in keys:
            inner = (*inner, key)
            self.spans.setdefault(inner, KeySpan(place, where))

    def value(self, path: Path, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _TooDeep(self.span(self.at, self.at + 1))
        char = self.peek()
        if char in ('"', "'"):
            self.string()
        elif char == "[":
            self.array(path, depth)
        elif char == "{":
            self.inline(path, depth)
        else:
            match = _SCALAR.match(self.text, self.at)
            if not match:
                raise _Stop
            self.at = match.end()

    def array(self, path: Path, depth: int) -> None:
        self.expect("[")
        index = 0
        while True:
            self.skip(_BLANK)
            if self.peek() == "]":
                break
            start = self.at
            item = (*path, index)
            self.value(item, depth + 1)
            where = self.span(start, self.at)
            self.spans[item] = KeySpan(where, where)
            index += 1
            self.skip(_BLANK)
            if self.peek() != ",":
                break
            self.at += 1
        self.expect("]")

    def inline(self, path: Path, depth: int) -> None:
        self.expect("{")
        self.skip(_BLANK)
        while self.peek() != "}":
            self.pair(path, depth + 1)
            self.skip(_BLANK)
            if self.peek() == ",":
                self.at += 1
                self.skip(_BLANK)
            elif self.peek() != "}":
                raise _Stop
        self.expect("}")

    def string(self) -> str:
        """Move behind a string; its text with the quotes."""
        quote = self.peek()
        start = self.at
        if self.peek(3) == quote * 3:
            end = self.at + 3
            while True:
                end = self.text.find(quote * 3, end)
                if end < 0:
                    raise _Stop
                if quote == '"' and _escaped(self.text, end):
                    end += 1
                    continue
                while self.text[end + 3 : end + 4] == quote:
                    end += 1
                break
            self.at = end + 3
        else:
            end = self.at + 1
            while self.text[end : end + 1] not in (quote, "", "\n"):
                end += 2 if quote == '"' and self.text[end] == "\\" else 1
            if self.text[end : end + 1] != quote:
                raise _Stop
            self.at = end + 1
        return self.text[start : self.at]


def _decoded(literal: str) -> str:
    """The text of a string as written with its quotes."""
    if "\\" not in literal:
        return literal[1:-1]
    try:
        return str(tomllib.loads("x = " + literal)["x"])
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise _Stop from error


def _escaped(text: str, at: int) -> bool:
    count = 0
    while text[at - 1 - count] == "\\":
        count += 1
    return count % 2 == 1
