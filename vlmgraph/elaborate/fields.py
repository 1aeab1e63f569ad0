"""What validation finds in a component's fields, in the words of specs and at the places of what disagrees."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel

from ..diagnostics import Diagnostic, Label
from ..diagnostics import codes as C
from ..spec import Spec

Path = tuple[str | int, ...]

WANTED = {
    "string_type": "this is a string",
    "int_type": "this is a whole number",
    "int_parsing": "this is a whole number",
    "int_from_float": "this is a whole number",
    "float_type": "this is a number",
    "float_parsing": "this is a number",
    "bool_type": "this is true or false",
    "bool_parsing": "this is true or false",
    "dict_type": "this is a table",
    "list_type": "this is a list",
    "tuple_type": "this is a list",
    "model_type": "this is a table",
}


def field_diagnostic(spec: Spec, cls: type[BaseModel], finding: Any, path: Path) -> Diagnostic:
    """One finding of pydantic about the component whose table stands at `path`."""
    where = tuple(part for part in finding["loc"] if not (isinstance(part, str) and part.startswith(("function-", "literal["))))
    kind = str(getattr(cls, "kind", "")) or cls.__name__
    if finding["type"] == "extra_forbidden":
        return _unknown(spec, cls, kind, where, path)
    if finding["type"] == "missing":
        names = ".".join(map(str, where))
        at = spec.label((*path, *where[:-1]), "not given here", "key")
        return Diagnostic(C.INVALID_FIELD, f"{kind} needs `{names}`", at, fix=f"give it: {names} = ..., or a preset that does")
    message, fix = words(finding)
    if where:
        return Diagnostic(code_of(message), f"{'.'.join(map(str, where))}: {message}", spec.label((*path, *where), "here"), fix=fix)
    first, *others = parties(spec, cls, message, path) or [spec.label(path, "here", "key")]
    return Diagnostic(code_of(message), f"{kind}: {message}", first, tuple(o for o in others if o), fix=fix)


def words(finding: Any) -> tuple[str, str | None]:
    """The message, and the way out where the kind of the fault gives one."""
    kind, context = finding["type"], finding.get("ctx", {})
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"this is at {'least' if kind[0] == 'g' else 'most'} {context['ge' if kind[0] == 'g' else 'le']:,}", None
    if kind in ("greater_than", "less_than"):
        return f"this is {'more' if kind[0] == 'g' else 'less'} than {context['gt' if kind[0] == 'g' else 'lt']:,}", None
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        close = difflib.get_close_matches(str(finding.get("input")), known, 1)
        return (
            f"this is one of {context['expected'].replace(chr(39), '').replace(' or ', ', ')}",
            f"did you mean {close[0]!r}?" if close else None,
        )
    message = WANTED.get(kind) or finding["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    divided = re.search(r"(\d+)(?: heads)? do not divide (?:the width )?(\d+)", message)
    if divided is None:
        return message, None
    part, whole = int(divided[1]), int(divided[2])
    near = sorted((n for n in range(1, min(whole, 4096) + 1) if whole % n == 0), key=lambda n: abs(n - part))[:2]
    return message, f"take a divisor of {whole}, such as {' or '.join(map(str, sorted(near)))}"


def code_of(message: str) -> str:
    lowered = message.lower()
    if "kv_heads" in lowered:
        return C.KV_HEADS_NOT_DIVIDING
    return C.HEADS_NOT_DIVIDING if "heads" in lowered and "divi" in lowered else C.INVALID_FIELD


def parties(spec: Spec, cls: type[BaseModel], message: str, path: Path) -> list[Label | None]:
    """The fields that a message about the whole component names, as far as the spec gives them."""
    named = [n for n in dict.fromkeys(re.findall(r"[a-z_]+", message)) if n in cls.model_fields and (*path, n) in spec.origins]
    return [spec.label((*path, n), "" if n == named[0] else f"{n} is given here") for n in named]


def _unknown(spec: Spec, cls: type[BaseModel], kind: str, where: Path, path: Path) -> Diagnostic:
    name, own = str(where[-1]) if where else "", len(where) == 1
    near = difflib.get_close_matches(name, list(cls.model_fields), 1) if own else []
    return Diagnostic(
        C.UNKNOWN_FIELD,
        f"{kind} has no field {name!r}",
        spec.label((*path, *where), "unknown field", "key"),
        notes=("fields: " + ", ".join(cls.model_fields),) if own else (),
        fix=f"did you mean {near[0]!r}?" if near else None,
    )
