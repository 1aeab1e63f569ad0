"""Key templates: `layers.{i}.attention.{p}` matches and fills names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_HOLE = re.compile(r"\{(\w+)(?:\*(\d+))?(?:\+(\d+))?\}")
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
class Template:
    """A dotted name with holes.

    `{i}`, `{j}`, `{k}` hold a number; `{i*4+1}` stands for 4 i + 1. `{rest}` holds any path, every other hole one segment.
    """

    text: str

    @cached_property
    def _pieces(self) -> tuple[re.Pattern[str], tuple[tuple[str, str, int, int], ...]]:
        pattern, holes, end = "", [], 0
        for n, hole in enumerate(_HOLE.finditer(self.text)):
            name, group = hole[1], f"h{n}"
            inner = r"\d+" if name in "ijk" else ".+" if name == "rest" else r"[^.]+"
            pattern += re.escape(self.text[end : hole.start()]) + f"(?P<{group}>{inner})"
            holes.append((group, name, int(hole[2] or 1), int(hole[3] or 0)))
            end = hole.end()
        tail = self.text[end:]
        if "{" in tail or "}" in tail:
            raise TemplateError(f"{self.text!r} has a hole that cannot be read")
        return re.compile(pattern + re.escape(tail)), tuple(holes)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for _, name, _, _ in self._pieces[1])

    def match(self, key: str) -> Captures | None:
        """What the holes hold in `key`, or None."""
        pattern, holes = self._pieces
        found = pattern.fullmatch(key)
        if found is None:
            return None
        captured: dict[str, str | int] = {}
        for group, name, factor, offset in holes:
            value: str | int = found[group]
            if name in "ijk":
                number = int(found[group]) - offset
                if number < 0 or number % factor:
                    return None
                value = number // factor
            if captured.setdefault(name, value) != value:
                return None
        return tuple(sorted(captured.items()))

    def fill(self, captures: Captures) -> str:
        known = dict(captures)

        def value(hole: re.Match[str]) -> str:
            held = known[hole[1]]
            return str(held * int(hole[2] or 1) + int(hole[3] or 0)) if isinstance(held, int) else held

        return _HOLE.sub(value, self.text)

    def under(self, prefix: str) -> Template:
        return Template(prefix + self.text)
