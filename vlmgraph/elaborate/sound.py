"""Configs whose fields fit their kinds and not one another: what a component declares of itself must be there to be had."""

from __future__ import annotations

import re

from pydantic import ValidationError

from ..components.base import Component
from ..diagnostics import Diagnostic, Label
from ..diagnostics import codes as C
from ..ir.dims import DimError
from ..plugins import fault
from ..spec import Spec

DIVISION = re.compile(r"(\d+) is not divisible by (\d+)")


def unsound(spec: Spec, config: Component, path: tuple[str | int, ...], at: Label | None = None) -> Diagnostic | None:
    """What is wrong with a config's own declarations, or None. `at` is its place where it has no path of its own."""
    try:
        for facet in config.facets or ("",):
            config.signature(facet)
        config.addresses()
        config.hidden_states()
        config.cache_bytes_per_token()
    except ValidationError as error:
        text = "; ".join(f["msg"].removeprefix("Value error, ") for f in error.errors())
        return Diagnostic(C.INVALID_FIELD, f"{config.kind}: {text}", at or spec.label(path, "here", "key"))
    except DimError as error:
        return division(spec, config, path, str(error), at)
    except ValueError as error:
        return Diagnostic(C.INVALID_FIELD, f"{config.kind}: {error}", at or spec.label(path, "here", "key"))
    except Exception as error:
        if not config.foreign():
            raise
        return fault(config, error, at or spec.label(path, "used here", "key"))
    return None


def division(spec: Spec, config: Component, path: tuple[str | int, ...], text: str, at: Label | None) -> Diagnostic:
    """A division that leaves a remainder, at the fields whose values these are, with the nearest value that does not."""
    match = DIVISION.fullmatch(text)
    if match is None:
        return Diagnostic(C.BAD_DIMENSION, f"{config.kind}: {text}", at or spec.label(path, "here", "key"))
    size, part = int(match[1]), int(match[2])
    table = spec.tree.get(*map(str, path)) if at is None else None
    written = table.table if table is not None else {}
    labels = []
    for number in (part, size):
        name = next((f for f, own in written.items() if own.value == number and f in type(config).model_fields), None)
        if name is not None:
            labels.append(spec.label((*path, name), f"{name} is {number}"))
    shown: list[Label | None] = [label for label in labels if label]
    first, *others = shown or [at or spec.label(path, "here", "key")]
    below, above = size // part * part, (size // part + 1) * part
    fix = f"take {f'{below} or {above}' if below else above} instead of {size}, or a divisor of {size} instead of {part}"
    return Diagnostic(C.NOT_DIVISIBLE, f"{config.kind}: {text}", first, tuple(o for o in others if o), fix=fix)
