"""JSON Schema draft-07 of specs with every installed component: for completion and checks in editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, PydanticInvalidForJsonSchema

from ..plugins import PluginError, registry
from . import names
from .model import SpecModel

DRAFT = "http://json-schema.org/draft-07/schema#"
LOSSES = "loss."


def schema(own: bool = False) -> dict[str, Any]:
    """The whole language: structure, component types, and the fields of each type; `own` leaves out those of plugins."""
    made = structure()
    fields = {kind: table for kind, table in component_fields(own).items() if table is not None}
    parts = {k: v for k, v in fields.items() if not k.startswith(LOSSES)}
    losses = {k: v for k, v in fields.items() if k.startswith(LOSSES)}
    blocks = made["properties"]["blocks"]["additionalProperties"]["properties"]
    for table, kinds in ((made["properties"]["components"], parts), (made["properties"]["objectives"], losses)):
        by_type(table["additionalProperties"], kinds)
    # the same once more would double the file
    blocks["components"]["additionalProperties"] = {"$ref": "#/properties/components/additionalProperties"}
    return made


def structure() -> dict[str, Any]:
    """The tables and keys of a spec, without what installed components add."""
    made = flattened(SpecModel.model_json_schema(by_alias=True))
    made = {"$schema": DRAFT, "title": "vlmgraph spec", **{k: v for k, v in made.items() if k not in ("$defs", "title")}}
    properties = made["properties"]
    for table in ("inputs", "outputs", "components", "nodes", "blocks", "programs", "objectives"):
        properties[table]["propertyNames"] = {"pattern": f"^{names.IDENTIFIER.pattern}$", "maxLength": names.MAX_LENGTH}
    # an overlay may hold any part of a spec, and marks of removal, so that nothing in it is required
    removal = {"type": "object", "properties": {"remove": {"const": True}}, "required": ["remove"]}
    overlay = {"type": "object", "properties": {key: {} for key in properties if key != "vlmgraph"}, "additionalProperties": False}
    for table in ("sizes", "variants"):
        properties[table]["additionalProperties"] = {"anyOf": [removal, overlay]}
    for table in properties.values():  # what a spec extends may be removed entry by entry
        removable(table.get("additionalProperties"))
    properties["tokens"]["additionalProperties"] = {"anyOf": [properties["tokens"]["additionalProperties"], removal]}
    made["required"] = ["vlmgraph"]
    return made


def removable(entry: Any) -> None:
    """Let `{ remove = true }` stand for an entry of a table."""
    if isinstance(entry, dict) and entry.get("properties"):
        entry["properties"] = {**entry["properties"], "remove": {"const": True}}
        if required := entry.pop("required", None):
            entry["anyOf"] = [{"required": required}, {"required": ["remove"]}]


def component_fields(own: bool = False) -> dict[str, dict[str, Any] | None]:
    """Fields of every component type that loads; None for those that are no components. `own` are those of this package."""
    found: dict[str, dict[str, Any] | None] = {}
    components = registry()
    for kind in components.names():
        if own and any(p.dist is None or p.dist.name != "vlmgraph" for p in components.points[kind]):
            continue
        try:
            cls = components.load(kind)
        except PluginError:
            continue  # `vlmgraph plugins` says why
        if isinstance(cls, type) and issubclass(cls, BaseModel) and hasattr(cls, "role"):
            found[kind] = fields_of(cls)
    return found


def fields_of(cls: type[BaseModel]) -> dict[str, Any]:
    """The properties of a config; `{}`, anything, where its annotation has no JSON form."""
    try:
        return dict(flattened(cls.model_json_schema(by_alias=True)).get("properties", {}))
    except PydanticInvalidForJsonSchema:
        return {name: {} for name in cls.model_fields}


def by_type(table: dict[str, Any], kinds: Mapping[str, dict[str, Any]]) -> None:
    """Let the value of `type` decide which other keys there are. Presets and `like` make every field optional."""
    own = table["properties"]
    own["type"] = {
        "anyOf": [{"enum": sorted(kinds)}, {"type": "string", "pattern": r"^[a-z_]+\.[a-z0-9_]+$"}],
        "description": "what kind of part",
    }
    table["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
            "then": {"properties": {**{name: or_field(value) for name, value in fields.items()}, **own}, "additionalProperties": False},
        }
        for kind, fields in sorted(kinds.items())
    ]


def or_field(value: Any) -> Any:
    """What a field may be, or inside of a block a field of the block, `$name`."""
    if not isinstance(value, dict) or not value.keys() & {"type", "enum", "const", "anyOf"}:
        return value
    words = {key: value[key] for key in ("description", "title", "default") if key in value}
    return {**words, "anyOf": [{k: v for k, v in value.items() if k not in words}, {"type": "string", "pattern": r"^\$\w+$"}]}


def flattened(made: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its `$defs` put in place: many editors follow no references. Recursive ones become `{}`, anything."""
    definitions = made.get("$defs", {})

    def place(value: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            reference = value.get("$ref")
            if isinstance(reference, str):
                name = reference.rpartition("/")[2]
                rest = {k: v for k, v in value.items() if k != "$ref"}
                if name in inside or name not in definitions:
                    return rest
                return {**place(definitions[name], (*inside, name)), **rest}
            return {k: place(v, inside) for k, v in value.items() if k != "$defs"}
        return [place(item, inside) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = place(made, ())
    return result
