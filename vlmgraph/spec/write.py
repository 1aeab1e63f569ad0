"""Values → TOML that reads back as the same values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 140
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(data: Mapping[str, Any]) -> str:
    """Tables under headers of their own; a table inside one stands on a line where it fits, in line with those beside it."""
    return "\n".join(_table((), data)).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], table: Mapping[str, Any]) -> Iterator[str]:
    """Its lines: values, then tables in their order, the first that is too long for a line and those behind it under headers."""
    tables = [k for k, v in table.items() if isinstance(v, Mapping)]
    long = (n for n, k in enumerate(tables) if not path or len(f"{key(k)} = {literal(table[k])}") > WIDTH)
    under = {k: table[k] for k in tables[next(long, len(tables)) :]}
    here = {k: v for k, v in table.items() if k not in under}
    if path and (here or not under):
        yield from ("", f"[{'.'.join(map(key, path))}]")
    column = max((len(key(k)) for k, v in here.items() if isinstance(v, Mapping)), default=0)
    for name, value in here.items():
        yield from _entry(key(name).ljust(column) if isinstance(value, Mapping) else key(name), value)
    for name, value in under.items():
        yield from _table((*path, name), value)


def _entry(name: str, value: Any) -> Iterator[str]:
    """A list that is too long for a line has a line for each of its texts."""
    line = f"{name} = {literal(value)}"
    if len(line) > WIDTH and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        yield from (f"{name} = [", *(f"  {literal(v)}," for v in value), "]")
    else:
        yield line


def key(name: str) -> str:
    return name if _BARE.fullmatch(name) else quoted(name)


def quoted(text: str) -> str:
    """A basic string; JSON escapes what TOML does, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key(k)} = {literal(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    raise TypeError(f"{value!r} has no TOML form")
