"""Single values set from outside: `--set llm.layers=2`, the `set` of a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from .model import NAMED, TABLES
from .overlay import Overlay, near
from .toml import tomllib
from .tree import Origin, Tree, from_plain


@dataclass(frozen=True)
class Override:
    """A dotted key as written, and its value."""

    key: str
    value: Tree

    @property
    def at(self) -> Label | None:
        span = self.value.origin.key or self.value.origin.span
        return Label(span) if span else None


def parse_pairs(overrides: Mapping[str, object] | Sequence[str], found: Collector) -> Iterator[Override]:
    """`{"a.b": 2}` or `["a.b=2"]`. A text value that is not TOML is a string, so that `llm.act=gelu` needs no quotes."""
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else [_split(text, found) for text in overrides]
    for pair in pairs:
        if pair is None:
            continue
        key, value = pair
        origin = Origin("override", str(key))
        try:
            yield Override(str(key), from_plain(value, origin))
        except ValueError as error:
            found.add(Diagnostic(C.BAD_OVERRIDE, f"override of {key}: {error}"))


def _split(text: str, found: Collector) -> tuple[str, object] | None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        found.add(Diagnostic(C.BAD_OVERRIDE, f"{text!r} is not an override", fix="write KEY=VALUE, for example llm.layers=2"))
        return None
    try:
        read = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        read = {}
    return key.strip(), read["value"] if set(read) == {"value"} else value.strip()


def split_key(key: str) -> list[str] | None:
    """The parts of a dotted key, quoted ones as TOML has them; None for what is no key."""
    if "=" in key or "\n" in key or not key.strip():
        return None
    try:
        level = tomllib.loads(f"{key} = 0")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return None
    parts: list[str] = []
    while isinstance(level, dict):
        if len(level) != 1:
            return None
        ((part, level),) = level.items()
        parts.append(part)
    return parts


def assign(tree: Tree, override: Override, found: Collector) -> Tree:
    """The tree with one value changed. What cannot be meant is reported and left out."""
    parts = split_key(override.key)
    if parts is None:
        found.add(Diagnostic(C.BAD_OVERRIDE, f"{override.key!r} is not a dotted key", override.at))
        return tree
    components = tree.get("components")
    if parts[0] not in TABLES and components is not None and parts[0] in components.table:
        parts = ["components", *parts]
    reason = _unknown(tree, parts, override.value)
    if reason is not None:
        found.add(Diagnostic(C.BAD_OVERRIDE, reason[0], override.at, fix=reason[1]))
        return tree
    return Overlay(found, strict=True).apply(tree, _nested(tree, parts, override.value))


def _unknown(tree: Tree, parts: list[str], value: Tree) -> tuple[str, str | None] | None:
    """Why a path means nothing in this spec, and the way out."""
    head = parts[0]
    if head not in TABLES:
        known = [*(tree.get("components") or tree).table, *TABLES]
        return f"override of {'.'.join(parts)}: there is no component or table {head!r}", near(head, known)
    if head in ("extends", "sizes", "variants", "vlmgraph"):
        return f"{head!r} cannot be overridden: it is applied before overrides are", None
    if len(parts) == 1 and not isinstance(value.value, dict):
        return f"override of {head}: this is a whole table, give the key inside it", None
    if head in NAMED and len(parts) > 1:
        there = (tree.get(head) or Tree({}, tree.origin)).table
        whole = len(parts) == 2 and (bool(value.table) or head == "programs")
        if parts[1] not in there and not whole:
            return f"override of {'.'.join(parts)}: there is no {parts[1]!r} in [{head}]", near(parts[1], there)
    below: Tree | None = tree
    for i, part in enumerate(parts[:-1]):
        below = (
            below.table.get(part)
            if below is not None and not below.items
            else below.items[int(part)]
            if below and _index(part, below)
            else None
        )
        if below is None:
            return None
        if below.items and not _index(parts[i + 1], below):
            return (
                f"override of {'.'.join(parts)}: {'.'.join(parts[: i + 1])} is a list of {len(below.items)}; give the number of an item",
                None,
            )
    return None


def _index(part: str, within: Tree) -> bool:
    return part.isdecimal() and int(part) < len(within.items)


def _nested(tree: Tree, parts: list[str], value: Tree) -> Tree:
    """The overlay that sets one path. A list on the way is given whole, with one item changed."""
    made = value
    for i in range(len(parts) - 1, -1, -1):
        below: Tree | None = tree
        for part in parts[:i]:
            below = below.items[int(part)] if below is not None and below.items else below.table.get(part) if below is not None else None
        if below is not None and below.items:
            index = int(parts[i])
            changed = Overlay(Collector()).over(below.items[index], made, ("components", "", ""), tree)
            made = Tree([*below.items[:index], changed, *below.items[index + 1 :]], value.origin)
        else:
            made = Tree({parts[i]: made}, value.origin)
    return made
