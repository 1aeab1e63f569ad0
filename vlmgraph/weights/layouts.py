"""Layouts as data: `layouts/<name>.toml`, written once a component family and included under prefixes.

    [rename]                                       # checkpoint key = model key
    "encoder.layers.{i}.mlp.fc1.{p}" = "layers.{i}.mlp.fc1.{p}"
    [[rules]]                                      # anything that is more than a name
    from = "blocks.{i}.attn.qkv.{p}"
    to   = ["layers.{i}.attention.q.{p}", "layers.{i}.attention.k.{p}", "layers.{i}.attention.v.{p}"]
    [[include]]
    layout = "clip-vision"
    from   = "vision_model."
    to     = "vision."
    [ignore]                                       # checkpoint key = why it is left out
    [computed]                                     # model key = why no checkpoint key holds it: a buffer that its module fills
    [[dialects]]                                   # other prefixes that releases of the same format use
    name     = "hub"
    prefixes = { "file prefix." = "prefix in the rules." }

`$name` in a template, an operation or the name of an included layout is a value of the checkpoint's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from .operations import read_operation
from .rules import Dialect, Layout, Rule
from .templates import Template, TemplateError, substitute

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def layout_names() -> list[str]:
    return sorted(p.name.removesuffix(".toml") for p in (files(__package__) / "layouts").iterdir() if p.name.endswith(".toml"))


def read_layout(name: str | Path, values: Mapping[str, Any] | None = None) -> Layout:
    """A layout by name, or by the path of a TOML file, for a checkpoint whose configuration has `values`.

    Raises DiagnosticError for a layout that does not exist or cannot be read.
    """
    try:
        beside = name.parent if isinstance(name, Path) else None
        table = _table(name)
        rules, ignore = _rules(table, values or {}, (), beside)
        dialects = [Dialect(d["name"], tuple(d.get("prefixes", {}).items())) for d in table.get("dialects", [])]
        computed = _computed(table, values or {}, beside)
        return Layout(str(name), tuple(rules), tuple(ignore), tuple(dialects) or (Dialect(""),), tuple(computed))
    except (TemplateError, KeyError, TypeError, ValueError, OSError) as error:
        raise DiagnosticError(Diagnostic(C.BAD_LAYOUT, f"the layout {str(name)!r} cannot be used: {error}")) from error


def _table(name: str | Path) -> dict[str, Any]:
    if isinstance(name, Path):
        return tomllib.loads(name.read_text(encoding="utf-8"))
    if not _NAME.fullmatch(name) or name not in layout_names():
        note = "layouts: " + ", ".join(layout_names())
        raise DiagnosticError(Diagnostic(C.BAD_LAYOUT, f"there is no layout {name!r}", notes=(note,)))
    return tomllib.loads((files(__package__) / "layouts" / f"{name}.toml").read_text(encoding="utf-8"))


def _included(name: str, beside: Path | None) -> dict[str, Any]:
    """A layout beside the one that includes it, where that is a file of the user's own, or a bundled one."""
    own = beside / f"{name}.toml" if beside is not None and _NAME.fullmatch(name) else None
    return _table(own if own is not None and own.is_file() else name)


def _computed(table: Mapping[str, Any], values: Mapping[str, Any], beside: Path | None) -> list[tuple[Template, str]]:
    """What a layout and those it includes say is in no checkpoint."""
    found = [(Template(substitute(name, values)), why) for name, why in table.get("computed", {}).items()]
    for entry in table.get("include", []):
        under = substitute(entry.get("to", ""), values)
        included = _included(substitute(entry["layout"], values), beside)
        found += [(inner.under(under), why) for inner, why in _computed(included, values, beside)]
    return found


def _rules(
    table: Mapping[str, Any], values: Mapping[str, Any], seen: tuple[str, ...], beside: Path | None
) -> tuple[list[Rule], list[tuple[Template, str]]]:
    def template(text: str) -> Template:
        made = Template(substitute(text, values))
        made.match("")  # a template that cannot be read is found here
        return made

    unknown = set(table) - {"rename", "rules", "include", "ignore", "computed", "dialects"}
    if unknown:
        raise TemplateError(f"unknown table {sorted(unknown)[0]!r}")
    rules = [Rule((template(a),), (template(b),)) for a, b in table.get("rename", {}).items()]
    for entry in table.get("rules", []):
        extra = set(entry) - {"from", "to", "dim", "ops"}
        if extra:
            raise TemplateError(f"unknown key {sorted(extra)[0]!r} in a rule")
        sources, targets = (
            tuple(template(t) for t in ([side] if isinstance(side, str) else side)) for side in (entry["from"], entry["to"])
        )
        operations = tuple(read_operation(o, values) for o in entry.get("ops", []))
        rules.append(Rule(sources, targets, operations, entry.get("dim", 0)))
    ignore = [(template(key), why) for key, why in table.get("ignore", {}).items()]
    for entry in table.get("include", []):
        name, theirs, ours = (substitute(entry.get(side, ""), values) for side in ("layout", "from", "to"))
        if name in seen:
            raise TemplateError(f"{name!r} includes itself")
        scope = {k: substitute(v, values) if isinstance(v, str) else v for k, v in entry.get("values", {}).items()}
        scope = {k: int(v) if isinstance(v, str) and v.lstrip("-").isdigit() else v for k, v in scope.items()}
        inner, left_out = _rules(_included(name, beside), {**values, **scope}, (*seen, name), beside)
        for rule in inner:
            rules.append(
                Rule(tuple(t.under(theirs) for t in rule.sources), tuple(t.under(ours) for t in rule.targets), rule.operations, rule.dim)
            )
        ignore += [(t.under(theirs), why) for t, why in left_out]
    return rules, ignore
