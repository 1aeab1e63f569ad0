"""An imported spec in fewer words: presets where they fit, and beside them only what differs.

What `import_config` gives states every value that config.json decides. Here each component takes the preset that leaves the least to say,
and what the extended spec, the preset or the component's class says anyway is left out. The short spec is used only if it resolves to
the same components, edges and programs as the long one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import api
from ..components.base import Component
from ..diagnostics import DiagnosticError
from ..diagnostics.codes import PROCESSOR_TOKEN
from ..elaborate.configs import merged
from ..plugins import registry
from ..presets import PresetError, load_preset, names
from ..spec import read_spec
from ..spec.write import to_toml
from .lock import plain

Table = dict[str, Any]

_NO_FIELDS = ("type", "preset", "of", "like", "copy")
_SAID = ("inputs", "outputs", "tokens", "programs", "objectives", "processor", "inference")
_UNSAID = object()


def tidied(data: Mapping[str, Any], folder: Path | None = None) -> Table:
    """The same model; `data` itself (as a copy) where no shorter way to say it is found.

    Ids of tokens that config.json does not state come from the `tokenizer.json` in `folder`; without it the text processor is left
    out, which could not be one.
    """
    long = _with_tokens(data, folder)
    base = read_spec(str(data["extends"])).data
    wanted = meaning(long)
    if wanted is None:
        return long
    shorter = {id: _component(base["components"].get(id, {}), table, wanted) for id, table in data.get("components", {}).items()}
    short = _without(long, {k: v for k, v in base.items() if k not in ("components", "graph")})
    short["components"] = {id: table for id, table in shorter.items() if table}
    short = {k: v for k, v in short.items() if v or k == "extends"}
    if meaning(short) != wanted:  # one of them only seemed to say the same
        short = long
        for id, table in shorter.items():
            trial = {**short, "components": {**short["components"], id: table}}
            short = trial if meaning(trial) == wanted else short
    return _checked(_with_expectations(_trimmed(short, base, wanted)))


def _trimmed(data: Table, base: Mapping[str, Any], wanted: Table) -> Table:
    """Without each value that inference or a default gives again: not those that change what the spec or its preset says."""
    paths = [("graph",), *(("components", id, name) for id, table in data.get("components", {}).items() for name in table)]
    for path in paths:
        if path[0] == "components":
            table = data["components"][path[1]]
            below = base["components"].get(path[1], {})
            preset = table.get("preset", below.get("preset"))
            if path[2] == "preset" or path[2] in below or path[2] in _preset(preset, table.get("type", below.get("type", ""))):
                continue
        trial = _dropped(data, path)
        if trial is not None and meaning(trial) == wanted:
            data = trial
    return data


def meaning(data: Mapping[str, Any]) -> Table | None:
    """What a spec resolves to, without names, sources and expectations; None where it does not check."""
    try:
        spec = read_spec(dict(data))
        graph = api.elaborate(spec, "carry,infer")
    except DiagnosticError:
        return None
    said = {k: plain(v) for k, v in spec.data.items() if k in _SAID}
    return said | {
        "components": {id: {"type": config.kind, "role": config.role, **plain(config.sense())} for id, config in graph.components.items()},
        "nodes": {node.id: (node.op, node.component, node.facet, node.inputs, node.options) for node in graph.nodes},
        "aliases": graph.aliases,
        "ties": graph.ties,
    }


def _with_tokens(data: Mapping[str, Any], folder: Path | None) -> Table:
    from ..processor.tokenizer import files, token_ids

    path = files(folder, "")
    unknown = [name for name, id in data.get("tokens", {}).items() if _removes(id)]
    if path is None or not unknown:
        return {**data}
    return {**data, "tokens": {**data["tokens"], **token_ids(path, unknown)}}


def _checked(short: Table) -> Table:
    """Without text processors whose tokens have no ids."""
    if all(d.code != PROCESSOR_TOKEN for d in api.check(short)):
        return short
    processors = read_spec(short).data.get("processor", {})
    texts = {name: {"remove": True} for name, table in processors.items() if table.get("type") in ("processor.chat", "processor.text")}
    return {**short, "processor": {**short.get("processor", {}), **texts}}


def _with_expectations(short: Table) -> Table:
    """The published counts of the extended spec are kept where they hold for this model too."""
    kept = {k: v for k, v in short.items() if k != "expect"}
    return short if any(d.severity == "error" for d in api.check(kept)) else kept


def _component(base: Mapping[str, Any], table: Mapping[str, Any], wanted: Table | None) -> Table:
    """The component's overlay with the best preset, as short as it gets."""
    kind = table.get("type", base.get("type", ""))
    cls = registry().load(kind) if kind and not kind.startswith("blocks.") else None  # a block of the spec has no class
    if not (isinstance(cls, type) and issubclass(cls, Component)) or table.get("type", kind) != base.get("type") or wanted is None:
        return dict(table)
    if any(_removes(v) for v in table.values()):
        return dict(table)
    own = {k: v for k, v in base.items() if k not in _NO_FIELDS}
    stated = {k: v for k, v in table.items() if k not in _NO_FIELDS}
    given = table.get("preset", base.get("preset"))
    full = merged(merged(_preset(given, kind), own), stated)
    best: tuple[int, Table] | None = None
    fitting = [name for name, kinds in names().items() if kind in kinds.split(", ")]
    # of those that leave as little to say: the spec's own, that of the configuration's class, the first
    for name in [base.get("preset"), given, *fitting] if given or "preset" in base else [None]:
        if name is None and given:
            continue
        said = _beside(merged(_preset(name, kind), own), full, cls)
        if said is None:
            continue
        changed = name != base.get("preset")
        if changed and not _deserved(_preset(name, kind), said):
            continue
        cost = _leaves(said) + changed
        if best is None or cost < best[0]:
            best = (cost, ({"preset": name} if changed else {}) | said)
    return best[1] if best is not None else dict(table)


def _preset(name: Any, kind: str) -> Table:
    """The fields of a preset, if there is one for this type."""
    try:
        return dict(load_preset(name, kind).fields) if isinstance(name, str) else {}
    except PresetError:
        return {}


def _deserved(preset: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Whether most of a preset's values stay as they are: a name that is contradicted beside it only misleads."""
    return 3 * sum(name in said for name in preset) <= len(preset)


def _beside(below: Mapping[str, Any], full: Mapping[str, Any], cls: type[Component]) -> Table | None:
    """What must stand beside a preset for `full`; None where the preset says what cannot be unsaid."""
    said: Table = {}
    defaults = {
        name: plain(field.get_default(call_default_factory=True)) for name, field in cls.model_fields.items() if not field.is_required()
    }
    for name, value in full.items():
        if name in below:
            rest = _difference(below[name], value)
            if rest is _UNSAID:
                return None
            if rest is not None:
                said[name] = rest
        elif not _covers(defaults.get(name, _UNSAID), value):
            said[name] = value
    for name in below:
        if name not in full:
            if defaults.get(name) is None:
                return None
            if not _covers(defaults[name], below[name]):
                said[name] = defaults[name]
    return said


def _difference(below: Any, value: Any) -> Any:
    """`value` without what `below` says already: None where nothing is left, `_UNSAID` where `below` says more."""
    if below == value:
        return None
    if not (isinstance(below, Mapping) and isinstance(value, Mapping)) or value.get("type", below.get("type")) != below.get("type"):
        return value
    if any(name not in value for name in below):
        return _UNSAID
    rest = {}
    for name, inner in value.items():
        left = _difference(below[name], inner) if name in below else inner
        if left is _UNSAID:
            return _UNSAID
        if left is not None:
            rest[name] = left
    return rest or None


def _covers(default: Any, value: Any) -> bool:
    """Whether a default says all that a value says."""
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return all(name in default and _covers(default[name], inner) for name, inner in value.items())
    return bool(default == value) and type(default) is type(value)


def _without(table: Mapping[str, Any], base: Mapping[str, Any]) -> Table:
    """A table without the values that the one below it has."""
    left: Table = {}
    for name, value in table.items():
        below = base.get(name, _UNSAID)
        if below == value or (_removes(value) and below is _UNSAID):
            continue
        if (
            isinstance(value, Mapping)
            and isinstance(below, Mapping)
            and not _removes(value)
            and value.get("type") in (None, below.get("type"))
        ):
            inner = _without(value, below)
            if inner:
                left[name] = inner
        else:
            left[name] = value
    return left


def _dropped(table: Mapping[str, Any], path: tuple[str, ...]) -> Table | None:
    """A table without what stands at a path, and without tables that are empty then; None where nothing stands there any more."""
    name, *rest = path
    if name not in table:
        return None
    kept = {k: v for k, v in table.items() if k != name}
    if not rest:
        return kept
    inner = _dropped(table[name], tuple(rest)) if isinstance(table[name], Mapping) else None
    return None if inner is None else {k: (inner if k == name else v) for k, v in table.items() if k != name or inner}


def _leaves(value: Any) -> int:
    return sum(_leaves(v) for v in value.values()) if isinstance(value, Mapping) else 1


def _removes(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("remove") is True


def spec_text(data: Mapping[str, Any], name: str, comment: str) -> str:
    """TOML with the tables in the order that the project's own specs have."""
    data = {"vlmgraph": 1, **data, "model": {**data.get("model", {}), "name": name}}
    order = ["vlmgraph", "extends", "model", "inputs", "outputs", "tokens", "components", "blocks", "graph", "programs"]
    ordered = {k: data[k] for k in (*(n for n in order if n in data), *(k for k in data if k not in order))}
    return f"# {comment}\n\n{to_toml(ordered)}"
