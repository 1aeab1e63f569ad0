"""Slots: config fields that hold a layer, written as its type's name or as a table with a `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, WithJsonSchema

from ...plugins import PluginError, registry
from ..base import Layer


def read_layer(value: Any, family: str, default: str = "", number: str = "") -> Any:
    """The layer that `value` describes: a type name, a table, or the bare number `number` of the `default` type.

    Raises ValueError naming the unknown type and those near it; an error inside a table keeps its own place.
    """
    if value is None or isinstance(value, Layer):
        return value
    if isinstance(value, str):
        value = {"type": value}
    elif isinstance(value, int) and not isinstance(value, bool) and number:
        value = {number: value}
    elif not isinstance(value, Mapping):
        wanted = f'a type such as "{default}", a table with a type' + (f", or a number ({number})" if number else "")
        raise ValueError(f"{value!r} is not {wanted}")
    kind = value.get("type", default)
    if kind == "none" and f"{family}.none" in registry().points:
        kind = f"{family}.none"
    if not isinstance(kind, str) or not kind:
        raise ValueError("the table needs a `type`")
    try:
        cls = registry().load(kind)
    except PluginError as error:
        names = [name for name in registry().names() if name.startswith(f"{family}.")]
        near = error.near or tuple(names)
        raise ValueError(f"there is no layer {kind!r}; near it: {', '.join(near)}" if error.reason == "unknown" else str(error)) from None
    if not (isinstance(cls, type) and issubclass(cls, Layer) and kind.startswith(f"{family}.")):
        raise ValueError(f"{kind!r} does not fit here; this slot takes {family}.*")
    return cls(**{name: field for name, field in value.items() if name != "type"})


def slot(family: str, default: str = "", number: str = "", empty: bool = False) -> Any:
    """The annotated type of a field that takes layers of `family`; `empty`: also "none", read as None."""
    pattern = f"^(blocks|{family})\\." if family in ("block", "mlp") else f"^{family}\\."  # an inner graph of the spec fills these too
    table = {"type": "object", "properties": {"type": {"type": "string", "pattern": pattern}}}
    forms: list[Any] = [{"type": "string", "pattern": pattern}, table]
    if number:
        forms.append({"type": "integer"})

    def read(value: Any) -> Any:
        return None if empty and value == "none" else read_layer(value, family, default, number)

    return Annotated[
        SerializeAsAny[Layer] | None if empty else SerializeAsAny[Layer], BeforeValidator(read), WithJsonSchema({"anyOf": forms})
    ]


def filled(layer: Layer, **around: Any) -> Any:
    """The layer with what it leaves open taken from the stack's fields of the same name."""
    fields = {name: getattr(layer, name) for name in layer.model_fields_set}
    for name, value in around.items():
        if name in type(layer).model_fields and value is not None and getattr(layer, name) is None:
            fields[name] = value
    return type(layer)(**fields)


def counted(prefix: str, layer: Any) -> dict[str, int]:
    """A layer's parameters by part, under the name of its slot."""
    if layer is None:
        return {}
    return {f"{prefix}.{part}" if part else prefix: count for part, count in layer.parameters().items()}


NormSlot = slot("norm")
AttentionSlot = slot("attention", "attention.mha", empty=True)
CrossSlot = slot("attention", "attention.cross")
PositionSlot = slot("position")
BlockSlot = slot("block")
