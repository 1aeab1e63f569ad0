"""The tables of `families/`, `configs/` and `shared/` as they are written, and one over those that it shares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


@cache
def read_tables(folder: str) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (files(__package__) / folder).iterdir():
        if path.name.endswith(".toml"):
            found[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def with_shared(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table over those of `shared/` that it names: its entries win, its cases come behind theirs."""
    whole: dict[str, Any] = {}
    for part in (*(read_tables("shared")[name] for name in table.get("shares", ())), table):
        for name, value in part.items():
            before = whole.get(name)
            if name == "values" and before:
                whole[name] = {**before, **{key: {**before.get(key, {}), **entries} for key, entries in value.items()}}
            elif name == "when" and before:
                whole[name] = [*before, *value]
            else:
                whole[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return whole
