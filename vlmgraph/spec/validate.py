"""The structure of a merged spec against `SpecModel`: every finding at once, each at its place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..diagnostics import Collector, Diagnostic, Label, Span
from ..diagnostics import codes as C
from . import names
from .model import TABLES, SpecModel
from .tree import Path, Tree

if TYPE_CHECKING:
    from .read import Spec

MAX_ROUNDS = 8


def validate(spec: Spec, found: Collector) -> SpecModel:
    """The spec as a model. What the findings are about is left out of both, and noted in `spec.left_out`."""
    for _ in range(MAX_ROUNDS):
        data = {"vlmgraph": 1, **spec.data} if ("vlmgraph",) in spec.left_out else spec.data
        try:
            return SpecModel.model_validate(data)
        except ValidationError as error:
            findings = error.errors(include_url=False, include_context=True)
            wrong = set()
            for finding in findings:
                path = located(data, finding["loc"])
                found.add(diagnostic(spec, finding, path))
                # what lacks a key goes as a whole
                wrong.add(path[:-1] if finding["type"] == "missing" and len(path) > 1 else path)
            spec.leave_out(wrong)
    spec.leave_out({(key,) for key in spec.data})
    return SpecModel(vlmgraph=1)


def located(data: Any, loc: tuple[Any, ...]) -> Path:
    """A pydantic location as a path of the spec: names of validators and union members are no keys."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        inside = (isinstance(data, Mapping) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if inside:
            path.append(part)
            data = data[part]
        elif i == len(loc) - 1 and part != "[key]" and isinstance(data, Mapping) and isinstance(part, str):
            path.append(part)  # a key that is missing
    return tuple(path)


def diagnostic(spec: Spec, finding: Any, path: Path) -> Diagnostic:
    """One finding of pydantic in the words of the language."""
    kind, shown = finding["type"], dotted(path)
    if kind == "extra_forbidden":
        known = keys_of(path[:-1])
        return unknown_key(str(path[-1]), path[:-1], known, spec.label(path, "unknown key", "key"))
    if kind == "missing":
        where = spec.label(path[:-1], "", "key")
        if path == ("vlmgraph",):
            return Diagnostic(C.MISSING_KEY, "the spec does not say its language version", first(spec), fix="add `vlmgraph = 1` at the top")
        return Diagnostic(C.MISSING_KEY, f"{dotted(path[:-1])} needs `{path[-1]}`", where)
    if kind == "version":
        return Diagnostic(C.BAD_VERSION, finding["msg"], spec.label(path, "not known here"), fix="write `vlmgraph = 1`")
    if kind == "bad_name":
        name = str(path[-1]) if path else ""
        other = names.suggestion(name)
        return Diagnostic(
            C.BAD_NAME,
            f"{shortened(name)!r} cannot be a name in [{dotted(path[:-1])}]: {finding['msg']}",
            spec.label(path, "not a name", "key"),
            fix=f"call it {other!r}" if other else None,
        )
    message = EXPECTED.get(kind) or finding["msg"].removeprefix("Value error, ")
    return Diagnostic(C.WRONG_VALUE, f"{shown}: {message}", spec.label(path, f"this is {described(finding.get('input'))}"))


EXPECTED = {
    "string_type": "this is a string",
    "int_type": "this is a whole number",
    "float_type": "this is a number",
    "bool_type": "this is true or false",
    "dict_type": "this is a table",
    "list_type": "this is a list",
    "model_type": "this is a table",
    "model_attributes_type": "this is a table",
    "greater_than_equal": "this number is too small",
}


def described(value: Any) -> str:
    """The kind of a value in the words of TOML."""
    if isinstance(value, bool):
        return "a boolean"
    for type_, text in ((str, "a string"), (int, "a number"), (float, "a number"), (Mapping, "a table"), (list, "a list")):
        if isinstance(value, type_):
            return text
    return "something else"


def unknown_key(name: str, table: Path, known: list[str], at: Label | None) -> Diagnostic:
    near = difflib.get_close_matches(name, known, 1)
    inside = f"[{dotted(table)}] has no key" if table else "there is no table or key"
    note = "known here: " + ", ".join(known)
    return Diagnostic(C.UNKNOWN_KEY, f"{inside} {shortened(name)!r}", at, notes=(note,), fix=f"did you mean {near[0]!r}?" if near else None)


def keys_of(path: Path) -> list[str]:
    """The keys that a table may have, as they are written."""
    model: Any = SpecModel
    for part in path:
        fields = (
            {f.alias or name: f for name, f in model.model_fields.items()}
            if isinstance(model, type) and issubclass(model, BaseModel)
            else None
        )
        annotation = fields[str(part)].annotation if fields is not None and part in fields else None if fields is not None else model
        model = _entry(annotation)
        if model is None:
            return []
    return [f.alias or name for name, f in model.model_fields.items()] if isinstance(model, type) and issubclass(model, BaseModel) else []


def _entry(annotation: Any) -> Any:
    """What a field leads to: a model, or for `dict[name, Model]` first a step by name, then the model."""
    args = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not args:
        return annotation
    return next((arg for arg in reversed(args) if isinstance(arg, type) and issubclass(arg, BaseModel)), None)


def validate_overlay(tree: Tree, found: Collector) -> None:
    """Top-level keys of the sizes and variants that are not applied now."""
    for kind in ("sizes", "variants"):
        overlays = tree.get(kind)
        if overlays is None:
            continue
        if not isinstance(overlays.value, dict):
            found.add(Diagnostic(C.WRONG_VALUE, f"{kind}: this is a table of overlays", _at(overlays, "value")))
            continue
        for name, overlay in overlays.table.items():
            if (reason := names.dashed_problem(name)) is not None:
                found.add(Diagnostic(C.BAD_NAME, f"{shortened(name)!r} cannot be a name in [{kind}]: {reason}", _at(overlay, "key")))
            if not isinstance(overlay.value, dict):
                found.add(Diagnostic(C.WRONG_VALUE, f"{kind}.{shortened(name)}: an overlay is a table", _at(overlay, "value")))
            for key, value in overlay.table.items():
                if key not in TABLES:
                    found.add(unknown_key(key, (kind, name), [t for t in TABLES if t != "vlmgraph"], _at(value, "key")))


def _at(tree: Tree, part: str) -> Label | None:
    span = tree.origin.key if part == "key" else tree.origin.span
    return Label(span) if span else None


def first(spec: Spec) -> Label | None:
    """The first thing in the spec's own file."""
    spans = [origin.key for origin in spec.origins.values() if origin.key is not None and origin.key.file == spec.file]
    if spans:
        return Label(min(spans), "the file starts here")
    return Label(Span(spec.file, 1, 1, 1, 2)) if spec.file is not None else None


def shortened(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


def dotted(path: Path) -> str:
    return ".".join(shortened(str(part)) for part in path)
