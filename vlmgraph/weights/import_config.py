"""config.json → spec: every key is mapped, ignored for a stated reason, or refused.

A family (`families/<name>.toml`) says which bundled spec a checkpoint is a case of, which layout its weights have, and which table
describes each sub-configuration (`fields`, `only` and `ignore` of a part go over those of its table). Classes that share a model type but
not their heads have a table each, told apart by `architectures`, models that have nothing but prompts of their own by `processors`, the
classes of processor beside the file. A table (`configs/<model type>.toml`) maps the keys of one
configuration class:

    base      = { preset = "llama-7b" }          # structure that no key states
    layout    = "llama"                          # what stands for `$PART.layout` in the layouts of families
    shares    = ["rope"]                         # tables of `shared/`, over which this one goes
    [defaults]  key = value                       # what the class assumes where a file leaves the key out
    [aliases]   older key = key
    [otherwise] key = other key                   # where the value is null
    [examples]  key = value                       # of the type that a key with the default null holds
    [fields]    key = path                        # of the spec; ".width" is a field of the component of this part; several in a list
    [values.KEY] value = value in the spec
    [only]      key = [values]                    # the graph is right for these alone (for these entries of a list of texts); other
                                                # values must be of the default's type
    [below]     key = bound                       # entries of a list are below this number, "{other key}"
    [ignore]    key = reason
    [set]       path = value                      # "{key}" stands for a value, "{a*b}" for a product, "{a//b}" for a floored quotient,
                                                # "{a-b}" for a difference, from left to right; paths as in fields
                                                # "{list.halvings}" is 2 to the number of its entries less one, "{list.cycle}"
                                                # what it repeats, "{list.side}" what all are; "{key.sqrt}" and "{key.rsqrt}" are
                                                # roots; the others are in `made.py`. An entry of a table that is null is left out
    needs       = [keys]                          # may not be null
    [equal]     key = other key                   # a family's: of any parts, with the same value
    lists       = [keys]                          # may hold several numbers in place of one
    tokens      = [tokens]                        # of a family: their ids are those of the tokenizer's file
    [[when]]    key, is, set                      # more of the same where a key has that value; `is = "null"` for an absent one, "{key}"
                                                # for the value of another; or key, before, set: where it is of an older release.
                                                # `and` holds further keys and values; `needs` and `only` are as above, there alone
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..diagnostics import Collector, Diagnostic, DiagnosticError, Label, Span
from ..diagnostics import codes as C
from .json_io import read_json
from .made import MADE, older
from .tables import read_tables, with_shared

_HOLE = re.compile(r"\{([\w.]+(?:(?:\*|//|-)[\w.]+)*)\}")


@dataclass(frozen=True)
class Imported:
    """What a configuration says: a spec (a dict that could stand in a TOML file), a layout, and the flat values for its templates."""

    family: str
    layout: str
    spec: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)


def families() -> dict[str, list[dict[str, Any]]]:
    """Tables by `model_type` of the whole model; several where its parts may be of different kinds (a decoder, an encoder-decoder)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, table in sorted(read_tables("families").items()):
        found.setdefault(table["model_type"], []).append(with_shared(table))
    return found


def fitting(tables: list[dict[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the class that wrote the file, where tables name theirs, and that has rules for the kinds of all parts, of several
    the one whose parts are there; where none fits, the first of that class, which says what is missing."""
    tables = [table for table in tables if named(config, table)] or tables

    def fits(table: Mapping[str, Any]) -> bool:
        for key, part in table.get("parts", {}).items():
            inner = config.get(key)
            kind = inner.get("model_type") if isinstance(inner, dict) else None
            if kind is not None and kind not in (*part["model_types"], *part.get("also", ())):
                return False
        return True

    return max(filter(fits, tables), key=lambda table: sum(part in config for part in table.get("parts", {})), default=tables[0])


def processed(tables: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The tables that ask for the class of processor that the folder's files name, else those that ask for none."""
    path = folder / "preprocessor_config.json"
    written = read_json(path).get("processor_class") if path.is_file() else None
    return [t for t in tables if written in t.get("processors", ())] or [t for t in tables if "processors" not in t]


def named(config: Mapping[str, Any], table: Mapping[str, Any]) -> bool:
    """Whether a file that names its class was written by one of the table's, where that names any; a file that names none may be of any."""
    known, written = table.get("architectures"), config.get("architectures")
    return known is None or not isinstance(written, list) or not written or any(name in known for name in written)


def config_tables() -> dict[str, dict[str, Any]]:
    """Tables by `model_type` of a configuration class; the common keys under ``""``."""
    return {t["model_type"]: with_shared(t) for t in read_tables("configs").values()}


def import_config(path: Path) -> Imported:
    """Read a checkpoint's config.json. Raises DiagnosticError with every key that cannot be honoured."""
    config = read_json(path)
    name = config.get("model_type")
    if not isinstance(name, str) or name not in families():
        note = "model types: " + ", ".join(sorted(families()))
        raise DiagnosticError(
            Diagnostic(
                C.UNKNOWN_MODEL_TYPE, f"{path.name}: no rules for the model type {name!r}", _place(path, ["model_type"]), notes=(note,)
            )
        )
    table = fitting(processed(families()[name], path.parent), config)
    if not named(config, table):
        known = sorted(c for t in families()[name] for c in t.get("architectures", ()))
        text = f"{path.name}: architectures = {_show(config['architectures'])} is not supported"
        note = "supported: " + ", ".join(map(_show, known))
        raise DiagnosticError(Diagnostic(C.CONFIG_VALUE, text, _place(path, ["architectures"]), notes=(note,)))
    return _Import(path, table).run(config)


class _Import:
    def __init__(self, path: Path, family: Mapping[str, Any]) -> None:
        self.path, self.family = path, family
        self.found = Collector()
        self.spec: dict[str, Any] = {"vlmgraph": 1, "extends": family["extends"]}
        self.values: dict[str, Any] = {}
        self.part = ""
        """The part that is being written."""

    def run(self, config: Mapping[str, Any]) -> Imported:
        top = self.gather(config)
        tables: list[tuple[str, Mapping[str, Any], dict[str, Any], str]] = []
        for key, part in self.family.get("parts", {}).items():
            inner = top.pop(key, None)
            inner = part.get("absent", {}) if inner is None else inner
            if not isinstance(inner, dict):
                self.found.add(Diagnostic(C.CONFIG_VALUE, f"{key} is {_show(inner)}, not an object", _place(self.path, [key])))
                continue
            kind = inner.get("model_type") or part["model_types"][0]
            if isinstance(kind, str) and kind in part.get("also", ()):  # what older files call the first
                kind = part["model_types"][0]
            if kind not in part["model_types"]:
                note = "supported: " + ", ".join(part["model_types"])
                text = f"{key} is of the model type {kind!r}, for which {self.family['model_type']} has no rules"
                self.found.add(Diagnostic(C.UNKNOWN_MODEL_TYPE, text, _place(self.path, [key, "model_type"]), notes=(note,)))
                continue
            table = _over(config_tables()[kind], part)
            values = self.flat(inner, table, key + ".")
            self.values |= {f"{key}.{k}": v for k, v in values.items()} | {f"{key}.model_type": kind, f"{key}.layout": table.get("layout")}
            tables.append((key, table, values, part.get("component", "")))
        own = self.flat(top, self.family, "")
        self.values |= own
        tables.append(("", self.family, own, self.family.get("component", "")))
        for key, other in self.family.get("equal", {}).items():
            if self.values.get(key) != self.values.get(other):
                self.refuse(key, self.values.get(key), f"it is {other}, {_show(self.values.get(other))}")
        self.found.stop()
        for part_key, rules, values, component in tables:
            self.apply(part_key, rules, values, component)
        self.found.stop()
        if ids := self.ids():
            self.spec.setdefault("tokens", {}).update(ids)
        return Imported(self.family["model_type"], self.family["layout"], self.spec, self.values)

    def ids(self) -> dict[str, int]:
        """Ids of the tokens that no key says, by the tokenizer's file beside the configuration, if there is one."""
        from ..processor.tokenizer import files, token_ids

        names = self.family.get("tokens", ())
        found = files(self.path.parent, "") if names else None
        return {} if found is None else token_ids(found, names)

    def gather(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Older files have the keys of one part at the top. With `left_over` a class that has the part too does not read them."""
        top = dict(config)
        home = self.family.get("flat")
        if home and (top.get(home) is None or self.family.get("left_over")):
            part = self.family["parts"][home]
            table = config_tables()[part["model_types"][0]]
            kept = set(self.family.get("defaults", {})) | set(self.family.get("ignore", {})) | set(self.family["parts"]) | set(_common())
            known = {k.partition(".")[0] for k in [*table.get("defaults", {}), *table.get("aliases", {}), *table.get("ignore", {})]}
            moved = {k: top.pop(k) for k in list(top) if k in known and (k not in kept or k == "tie_word_embeddings")}
            if "tie_word_embeddings" in moved and "tie_word_embeddings" in self.family.get("defaults", {}):
                top["tie_word_embeddings"] = moved.pop("tie_word_embeddings")
            if top.get(home) is None:
                top[home] = moved
        return top

    def flat(self, config: Mapping[str, Any], table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Values by dotted key, defaults filled in; findings for keys that no rule explains and values that do not fit."""
        known = table.get("defaults", {})
        ignored = {**_common(), **table.get("ignore", {})}
        values, spelt = dict(known), {}
        whole = {key: "" for key, default in known.items() if isinstance(default, dict)}
        for written, value in _flatten(config, {**ignored, **whole}):
            key = table.get("aliases", {}).get(written, written)
            if key in known:
                values[key], spelt[key] = value, prefix + written
            elif key not in ignored and value is not None and not (value == {} and any(k.startswith(f"{key}.") for k in known)):
                self.unknown(prefix + written, value, known)
        for key, value in values.items():
            if _empty(value):
                if key in table.get("needs", ()):
                    self.refuse(spelt.get(key, prefix + key), None, "it may not be null")
                continue
            allowed = table.get("only", {}).get(key)
            kind = _kind(key, table)
            if key in table.get("lists", ()) and isinstance(value, list):
                kind = f"{kind} or a list of whole numbers"
                fits = _is(value, "a list of whole numbers")
            else:
                fits = _is(value, kind)
            if not fits:
                self.refuse(spelt.get(key, prefix + key), value, f"it is {kind}")
            elif allowed is not None and any(v not in allowed for v in (value if kind == "a list of texts" else [value])):
                self.refuse(spelt.get(key, prefix + key), value, "supported: " + ", ".join(map(_show, allowed)))
        for case in table.get("when", []):
            if "is" in case and case["key"] in values and self.holds(case, values):
                for key in case.get("needs", ()):
                    if _empty(values[key]):
                        self.refuse(spelt.get(key, prefix + key), None, f"{case['key']} = {_show(case['is'])} needs it")
                for key, allowed in case.get("only", {}).items():
                    value = values[key]
                    if not _empty(value) and any(v not in allowed for v in (value if isinstance(value, list) else [value])):
                        note = f"supported where {case['key']} is {_show(case['is'])}: "
                        self.refuse(spelt.get(key, prefix + key), value, note + ", ".join(map(_show, allowed)))
        for key, other in table.get("otherwise", {}).items():
            if _empty(values.get(key)):
                values[key] = values.get(other)
        return {k: None if _empty(v) else v for k, v in values.items()}

    def refuse(self, key: str, value: Any, note: str) -> None:
        text = f"{self.path.name}: {key} = {_show(value)} is not supported"
        self.found.add(Diagnostic(C.CONFIG_VALUE, text, _place(self.path, key.split(".")), notes=(note,)))

    def unknown(self, key: str, value: Any, known: Mapping[str, Any]) -> None:
        import difflib

        near = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
        fix = f"did you mean {near[0]!r}?" if near else None
        text = f"{self.path.name}: no rule explains {key} = {_show(value)}"
        self.found.add(Diagnostic(C.CONFIG_KEY, text, _place(self.path, key.split(".")), fix=fix))

    def apply(self, part: str, table: Mapping[str, Any], values: Mapping[str, Any], component: str) -> None:
        self.part, scope = part, {**self.values, **values}
        here = f"components.{component}" if component else ""
        for key, bound in table.get("below", {}).items():
            if any(entry >= self.fill(bound, scope) for entry in values[key] or ()):
                self.refuse(f"{part}.{key}" if part else key, values[key], f"its entries are below {self.fill(bound, scope)}")
                return
        for name, value in table.get("base", {}).items():
            self.put(f"{here}.{name}", value)
        for path, value in table.get("set", {}).items():
            self.put(here + path if path.startswith(".") else path, self.fill(value, scope))
        for key, paths in table.get("fields", {}).items():
            value = values.get(key)
            if value is None:
                continue
            choices = table.get("values", {}).get(key)
            if choices is not None:
                if _word(value) not in choices:
                    self.refuse(f"{part}.{key}" if part else key, value, "supported: " + ", ".join(choices))
                    continue
                value = choices[_word(value)]
            for path in [paths] if isinstance(paths, str) else paths:
                self.put(here + path if path.startswith(".") else path, value)
        for case in table.get("when", []):
            if self.holds(case, scope):
                for path, value in case.get("set", {}).items():
                    self.put(here + path if path.startswith(".") else path, self.fill(value, scope))

    def holds(self, case: Mapping[str, Any], scope: Mapping[str, Any]) -> bool:
        """Whether the keys of a `[[when]]` have its values."""
        if "before" in case:
            return older(scope.get(case["key"]), case["before"])
        wanted = {case["key"]: case["is"], **case.get("and", {})}
        return all(_word(self.value(key, scope)) == _word(self.fill(value, scope)) for key, value in wanted.items())

    def put(self, path: str, value: Any) -> None:
        *parents, last = path.split(".")
        table = self.spec
        for name in parents:
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = table[name] = {"type": inner}
            table = inner
        if isinstance(value, dict) and isinstance(table.get(last), dict):
            table[last] = {**table[last], **value}
        else:
            table[last] = value

    def fill(self, value: Any, scope: Mapping[str, Any]) -> Any:
        """`{key}`, `{a*b}` and `{a//b}` replaced, in lists and tables too. A text that is one hole becomes the value itself."""
        if isinstance(value, list):
            return [self.fill(v, scope) for v in value]
        if isinstance(value, dict):
            filled = {k: self.fill(v, scope) for k, v in value.items()}
            return {k: v for k, v in filled.items() if v is not None}
        if not isinstance(value, str):
            return value
        whole = _HOLE.fullmatch(value)
        if whole:
            return self.product(whole[1], scope)
        return _HOLE.sub(lambda hole: str(self.product(hole[1], scope)), value)

    def value(self, name: str, scope: Mapping[str, Any]) -> Any:
        """A value by key, or what a suffix makes of it; of a list of levels `.halvings` is how often the sides were halved, as a factor."""
        key, _, suffix = name.rpartition(".")
        made = MADE.get(suffix)
        if made is None or name in scope:
            return scope.get(name)
        try:
            return made(scope[key])
        except ValueError as error:
            value, key = scope[key], f"{self.part}.{key}" if f"{self.part}.{key}" in self.values else key
            text = f"{self.path.name}: {key} = {_show(value)} is not supported: {error}"
            raise DiagnosticError(Diagnostic(C.CONFIG_VALUE, text, _place(self.path, key.split(".")))) from None

    def product(self, text: str, scope: Mapping[str, Any]) -> Any:
        names = re.split(r"\*|//|-", text)
        factors = [int(name) if name.isdigit() else self.value(name, scope) for name in names]
        if len(factors) == 1:
            return factors[0]
        signs = re.findall(r"\*|//|-", text)
        if not all(isinstance(f, (int, float)) for f in factors) or any(s == "//" and not f for s, f in zip(signs, factors[1:])):
            raise DiagnosticError(Diagnostic(C.CONFIG_VALUE, f"{self.path.name}: {text} needs numbers, but is {factors}"))
        result = factors[0]
        for sign, factor in zip(signs, factors[1:]):
            result = result * factor if sign == "*" else result - factor if sign == "-" else result // factor
        return int(result) if result == int(result) else result


def _over(table: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's table with what the family's part says otherwise."""
    return {**table, **{name: {**table.get(name, {}), **part[name]} for name in ("fields", "only", "ignore") if name in part}}


@cache
def _common() -> dict[str, str]:
    return dict(config_tables()[""]["ignore"])


def _flatten(config: Mapping[str, Any], ignored: Mapping[str, str], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, dict) and value and prefix + key not in ignored:
            pairs += _flatten(value, ignored, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def _empty(value: Any) -> bool:
    """Null, which TOML cannot write and the tables give as an empty text."""
    return value is None or value == ""


def _kind(key: str, table: Mapping[str, Any]) -> str:
    """What a key holds, by its default; a key whose default is null by what stands in for it, or as `only` says."""
    example = table["defaults"][key]
    if _empty(example):
        example = table.get("examples", {}).get(key, "")
    if _empty(example):
        example = (table.get("only", {}).get(key) or [table["defaults"].get(table.get("otherwise", {}).get(key), 0)])[0]
    if isinstance(example, bool):
        return "true or false"
    if isinstance(example, dict):
        return "a table of whole numbers"
    if isinstance(example, list) and example and isinstance(example[0], str):
        return "a list of texts"
    if isinstance(example, list) and example and isinstance(example[0], bool):
        return "a list of true and false"
    if isinstance(example, list) and example and isinstance(example[0], list):
        return "a list of lists of whole numbers"
    if isinstance(example, list) and example and isinstance(example[0], float):
        return "a list of numbers"
    return {int: "a whole number", float: "a number", str: "a text", list: "a list of whole numbers"}[type(example)]


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind == "true or false":
        return isinstance(value, bool) and kind == "true or false"
    if kind == "a list of true and false":
        return isinstance(value, list) and bool(value) and all(isinstance(v, bool) for v in value)
    if kind == "a list of whole numbers":
        return isinstance(value, list) and bool(value) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    if kind == "a list of numbers":
        return isinstance(value, list) and bool(value) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if kind == "a list of lists of whole numbers":
        return isinstance(value, list) and bool(value) and all(_is(v, "a list of whole numbers") for v in value)
    if kind == "a table of whole numbers":
        return isinstance(value, dict) and bool(value) and all(key.isdigit() and _is(v, "a whole number") for key, v in value.items())
    if kind == "a list of texts":
        return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
    if kind == "a text":
        return isinstance(value, str)
    return isinstance(value, int) or (kind == "a number" and isinstance(value, float))


def _word(value: Any) -> str:
    return "null" if _empty(value) else str(value).lower() if isinstance(value, bool) else str(value)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


def _place(path: Path, keys: list[str]) -> Label | None:
    """The line of a key in the file, found by going down the path of names."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    at = 0
    for key in keys:
        found = re.compile(r'"(' + re.escape(key) + r')"\s*:').search(text, at)
        if found is None:
            break
        at = found.start()
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return Label(Span(str(path), line, column, line, column + len(keys[-1]) + 2))
