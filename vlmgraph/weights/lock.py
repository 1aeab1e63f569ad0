"""spec.lock.toml: a spec with every overlay applied and every default and inferred dim written out; reads back as a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..spec.write import to_toml
from .digests import digests

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..spec import Spec

_LINKS = ("of", "copy", "update", "frozen", "role")
"""Keys of a component's table that are no fields and stay as they are."""


def lock_text(spec: Spec, graph: Graph) -> str:
    """TOML. The comments in front hold a digest of the values below, of the tool, and of each plugin package that the graph uses.

    Reading the text as a spec and locking it again gives the same text.
    """
    body = to_toml(locked(spec.data, graph))
    lines = [f"# sha256 {digest} {what}" for what, digest in digests(body, graph).items()]
    return "\n".join(["# written by vlmgraph; every default and inferred dim is written out", *lines, "", body])


def locked(data: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The spec's values with each component's table replaced by all fields it has now. Sizes and variants are applied already."""
    made = {k: plain(v) for k, v in data.items() if k not in ("sizes", "variants", "extends")}
    for id, table in made.get("components", {}).items():
        if id in graph.components:
            made["components"][id] = fields_of(table, graph.components[id])
    for name, block in made.get("blocks", {}).items():
        users = [id for id, t in made.get("components", {}).items() if isinstance(t, Mapping) and t.get("type") == f"blocks.{name}"]
        for part, table in block.get("components", {}).items():
            configs = [graph.components[f"{id}.{part}"] for id in users if f"{id}.{part}" in graph.components]
            # several uses of a block may have different dims: what they share is written, the rest is inferred again
            if configs and all(slot(c) == slot(configs[0]) for c in configs):
                block["components"][part] = fields_of(table, configs[0])
    return made


def fields_of(table: Mapping[str, Any], config: BaseModel) -> dict[str, Any]:
    kept = {k: table[k] for k in _LINKS if k in table}
    return {"type": table.get("type", getattr(config, "kind", "")), **kept, **slot(config, with_type=False)}


def slot(config: BaseModel, with_type: bool = True) -> dict[str, Any]:
    """All fields that have a value; layers in slots as tables with their type."""
    kind = getattr(type(config), "kind", "")
    fields = {name: plain(getattr(config, name)) for name in type(config).model_fields if getattr(config, name) is not None}
    return ({"type": kind} if kind and with_type else {}) | fields


def plain(value: Any) -> Any:
    """Dicts, lists and scalars."""
    if isinstance(value, BaseModel):
        return slot(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
