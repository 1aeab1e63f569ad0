"""Published dimensions of components: one TOML file a preset, one table a component type.

Plain data beside this module, and in a `presets` folder beside the specs folder of every installed spec plugin.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..diagnostics.core import Span

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Reason = Literal["unknown", "wrong_type", "broken"]


class PresetError(Exception):
    """A preset that is not there (`unknown`), does not serve the type (`wrong_type`) or cannot be read (`broken`).

    `near` holds names like the one asked for, `types` the component types that the preset does serve.
    """

    def __init__(self, reason: Reason, name: str, message: str, near: tuple[str, ...] = (), types: tuple[str, ...] = ()) -> None:
        self.reason, self.name, self.near, self.types = reason, name, near, types
        super().__init__(message)


@dataclass(frozen=True)
class Preset:
    """The fields a preset gives to one component type. `origins` tells which line each of them stands on."""

    name: str
    type: str
    fields: Mapping[str, Any]
    source: str
    file: Path
    origins: Mapping[str, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tables:
    """A whole file with what it extends, by component type."""

    source: str
    file: Path
    tables: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, Mapping[str, Span]]


def load_preset(name: str, type: str) -> Preset:
    """Fields of the preset `name` for the component type `type`. Raises PresetError."""
    found = _read(name) if isinstance(name, str) else None
    if found is None:
        near = tuple(difflib.get_close_matches(str(name), _files(), 3, 0.5))
        raise PresetError("unknown", str(name), f"there is no preset {name!r}", near)
    type = type if isinstance(type, str) else ""
    if type not in found.tables:
        types = tuple(sorted(found.tables))
        near = tuple(n for n in difflib.get_close_matches(name, _files(), 12, 0.5) if type in _tables_of(n))[:3]
        raise PresetError("wrong_type", name, f"preset {name!r} serves {', '.join(types)}, not {type}", near, types)
    return Preset(name, type, found.tables[type], found.source, found.file, found.origins[type])


def preset_names() -> list[str]:
    return sorted(_files())


def names() -> dict[str, str]:
    """Every preset and the component types that it serves, joined by commas."""
    return {name: ", ".join(sorted(_tables_of(name))) for name in preset_names()}


def _tables_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        found = _read(name)
    except PresetError:
        return {}
    return found.tables if found is not None else {}


@cache
def _files() -> dict[str, Path]:
    """Preset files by name. A name is only ever looked up here, so no name can lead to another file."""
    files: dict[str, Path] = {}
    for folder in (Path(__file__).parent, *_plugin_folders()):
        for file in sorted(folder.glob("*.toml")):
            files.setdefault(file.stem, file)
    return files


def _plugin_folders() -> list[Path]:
    """`presets` in each package that provides specs, or beside it where the entry point names the specs folder itself."""
    folders: dict[Path, None] = {}
    for point in entry_points(group="vlmgraph.specs"):
        module = point.value.partition(":")[0].strip()
        try:
            package = find_spec(module)
        except (ImportError, ValueError, AttributeError):  # a broken plugin is reported where its specs are asked for
            continue
        for place in (package.submodule_search_locations or ()) if package is not None else ():
            folders[Path(place) / "presets"] = None
            if "." in module:
                folders[Path(place).parent / "presets"] = None
    return list(folders)


@cache
def _read(name: str, below: tuple[str, ...] = ()) -> _Tables | None:
    file = _files().get(name)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise PresetError("broken", name, f"preset {name!r} ({file}) cannot be read: {error}") from error
    tables: dict[str, dict[str, Any]] = {}
    origins: dict[str, dict[str, Span]] = {}
    if "extends" in data:
        under = None if data["extends"] in (*below, name) else _read(str(data["extends"]), (*below, name))
        if under is None:
            raise PresetError("broken", name, f"preset {name!r} extends {data['extends']!r}, which is unknown or extends it in turn")
        tables = {kind: dict(fields) for kind, fields in under.tables.items()}
        origins = {kind: dict(spans) for kind, spans in under.origins.items()}
    lines = _lines(text, str(file))
    for kind, fields in data.items():
        if isinstance(fields, dict):
            tables[kind] = {**tables.get(kind, {}), **fields}
            origins.setdefault(kind, {}).update({key: lines[kind, key] for key in fields if (kind, key) in lines})
    return _Tables(str(data.get("source", "")), file, tables, origins)


_TABLE = re.compile(r'\["?([\w.\-]+)"?\]')
_KEY = re.compile(r"([\w\-]+)\s*=\s*")


def _lines(text: str, file: str) -> dict[tuple[str, str], Span]:
    """Where every key of every table stands; presets keep one key a line."""
    found: dict[tuple[str, str], Span] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = match[1]
        elif match := _KEY.match(line):
            found[table, match[1]] = Span(file, number, 1, number, len(line.partition(" #")[0].rstrip()) + 1)
    return found
