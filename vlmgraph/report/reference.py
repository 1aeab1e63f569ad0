"""Pages about component types, made from their declarations: what they do, their ports, their fields."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ..spec.schema import fields_of


def component_page(kind: str, cls: type[BaseModel]) -> str:
    """Markdown about one type."""
    lines = [f"## {kind}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    if ports := _ports(cls):
        lines += ["```text", *ports, "```", ""]
    if rows := list(_rows(cls)):
        lines += ["| field | value | default | |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _ports(cls: type[Any]) -> list[str]:
    """Input ports and outputs with their types; nothing for layers, and where they hang on fields that have no default."""
    if not hasattr(cls, "signature"):
        return []
    try:
        ports = cls().signature()
    except (ValidationError, ValueError, TypeError, AttributeError):
        ports = getattr(cls, "ports", None)
        if ports is None:
            return []
    into = [f"{name}: {type_}" for name, type_ in ports.inputs.items()]
    out = [f"{name}: {type_}" for name, type_ in ports.outputs.items()]
    return [*into, *(f"  → {line}" for line in out)]


def _rows(cls: type[BaseModel]) -> Iterator[str]:
    properties = fields_of(cls)
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else _literal(field.get_default(call_default_factory=True))
        yield f"| `{name}` | {_values(properties.get(field.alias or name, {}))} | {default} | {_cell(field.description or '')} |"


def _literal(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        return f"`{getattr(type(value), 'kind', '') or type(value).__name__}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{_cell(value)}"`'
    if isinstance(value, (Mapping, list, tuple)) and not value:
        return ""
    return f"`{_cell(str(value))}`"


def _values(schema: Mapping[str, Any]) -> str:
    """What may stand there, from a property of the JSON Schema."""
    if "const" in schema:
        return f"`{schema['const']!r}`".replace("'", '"')
    if "enum" in schema:
        return ", ".join(f'`"{v}"`' if isinstance(v, str) else f"`{v}`" for v in schema["enum"] if v is not None)
    if "anyOf" in schema:
        each = dict.fromkeys(text for option in schema["anyOf"] if option.get("type") != "null" and (text := _values(option)))
        return " or ".join(each)
    kind = schema.get("type", "")
    if kind == "array":
        inner = _values(schema.get("items", {}) if isinstance(schema.get("items"), Mapping) else {})
        return f"list of {inner}" if inner else "list"
    return {"object": "table", "integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}.get(str(kind), "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
