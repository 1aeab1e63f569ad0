"""Key templates: `layers.{i}.attention.{p}` matches and fills names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_HOLE = re.compile(r"\{(\w+)(?:\*(\d+))?(?:\+(\d+))?(?:([@~])\[([\d, ]*)\](-)?)?\}")
_VALUE = re.compile(r"\$([A-Za-z_][\w.]*)")

Captures = tuple[tuple[str, str | int], ...]


class TemplateError(ValueError):
    """A template that cannot be read or filled."""


def substitute(text: str, values: Mapping[str, Any]) -> str:
    """Replace every `$name` by its value."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise TemplateError(f"{text!r} asks for the value {found[1]!r}, which the configuration does not give")
        return str(values[found[1]])

    return _VALUE.sub(value, text)


@dataclass(frozen=True)
class Number:
    """What stands in a key for the number i that a hole holds."""

    factor: int = 1
    offset: int = 0
    listed: tuple[int, ...] | None = None
    rule: str = ""

    @classmethod
    def of(cls, hole: re.Match[str]) -> Number:
        listed = None if hole[4] is None else tuple(sorted({int(n) for n in hole[5].split(",") if n.strip()}))
        return cls(int(hole[2] or 1), int(hole[3] or 0), listed, (hole[4] or "") + (hole[6] or ""))

    def write(self, i: int) -> int:
        """Raises TemplateError where a list has no i-th layer."""
        i = i * self.factor + self.offset
        if self.listed is None:
            return i
        if self.rule.startswith("~"):
            for taken in self.listed:
                i += taken <= i
            return i
        if i >= len(self.listed):
            raise TemplateError(f"the list {list(self.listed)} has no layer {i}")
        return self.listed[i] - (i if self.rule.endswith("-") else 0)

    def read(self, number: int) -> int | None:
        """The i that `number` stands for, if it does for any."""
        if self.listed is not None:
            if self.rule.startswith("~"):
                if number in self.listed:
                    return None
                number -= sum(taken < number for taken in self.listed)
            else:
                places = [self.listed[i] - (i if self.rule.endswith("-") else 0) for i in range(len(self.listed))]
                if number not in places:
                    return None
                number = places.index(number)
        number -= self.offset
        return None if number < 0 or number % self.factor else number // self.factor


@dataclass(frozen=True)
class Template:
    """A dotted name with holes.

    `{i}`, `{j}`, `{k}` hold a number; `{i*4+1}` stands for 4 i + 1. Of a list of layers in order `{i@[3, 8]}` is the i-th, `{i~[3, 8]}` the
    i-th layer that is not in it, and `{i@[3, 8]-}` how many of those are in front of the i-th. `{rest}` holds any path, every other hole
    one segment.
    """

    text: str

    @cached_property
    def _pieces(self) -> tuple[re.Pattern[str], tuple[tuple[str, str, Number], ...]]:
        pattern, holes, end = "", [], 0
        for n, hole in enumerate(_HOLE.finditer(self.text)):
            name, group = hole[1], f"h{n}"
            inner = r"\d+" if name in "ijk" else ".+" if name == "rest" else r"[^.]+"
            pattern += re.escape(self.text[end : hole.start()]) + f"(?P<{group}>{inner})"
            holes.append((group, name, Number.of(hole)))
            end = hole.end()
        tail = self.text[end:]
        if "{" in tail or "}" in tail:
            raise TemplateError(f"{self.text!r} has a hole that cannot be read")
        return re.compile(pattern + re.escape(tail)), tuple(holes)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for _, name, _ in self._pieces[1])

    def match(self, key: str) -> Captures | None:
        """What the holes hold in `key`, or None."""
        pattern, holes = self._pieces
        found = pattern.fullmatch(key)
        if found is None:
            return None
        captured: dict[str, str | int] = {}
        for group, name, number in holes:
            value: str | int | None = number.read(int(found[group])) if name in "ijk" else found[group]
            if value is None:
                return None
            if captured.setdefault(name, value) != value:
                return None
        return tuple(sorted(captured.items()))

    def fill(self, captures: Captures) -> str:
        known = dict(captures)

        def value(hole: re.Match[str]) -> str:
            held = known[hole[1]]
            return str(Number.of(hole).write(held)) if isinstance(held, int) else held

        return _HOLE.sub(value, self.text)

    def under(self, prefix: str) -> Template:
        return Template(prefix + self.text)
