"""Component tables → validated configs: type, preset, `of`, `like`, tokens, fields, in that order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import ValidationError

from ..components.base import Component, Layer, TokenMark
from ..diagnostics import Collector, Diagnostic, Label
from ..diagnostics import codes as C
from ..plugins import PluginError, registry
from ..presets import PresetError, load_preset
from ..spec import Spec
from ..spec.names import NUMBERED
from .fields import field_diagnostic
from .sound import unsound

Path = tuple[str | int, ...]

RESERVED = ("type", "preset", "of", "like", "copy", "update", "frozen", "uses", "remove", "role")


@dataclass
class Configs:
    """Builds every component of a spec; what fails is reported and left out."""

    spec: Spec
    found: Collector
    tokens: Mapping[str, int]
    tables: dict[str, tuple[Mapping[str, Any], Path]]
    """Component id → its table and where that table stands."""
    built: dict[str, Component] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    _raw: dict[str, dict[str, Any]] = field(default_factory=dict)
    _active: list[str] = field(default_factory=list)

    def build_all(self) -> dict[str, Component]:
        """In the order of the spec, though `of` builds some before others."""
        for id in self.tables:
            self.build(id)
        self.built = {id: self.built[id] for id in self.tables if id in self.built}
        return self.built

    def build(self, id: str) -> Component | None:
        if id in self.built or id in self.failed:
            return self.built.get(id)
        table, path = self.tables[id]
        config = self._build(id, table, path)
        if config is None:
            self.failed.add(id)
        else:
            self.built[id] = config
        return config

    def label(self, path: Path, text: str = "", part: str = "value") -> Label | None:
        return self.spec.label(path, text, part)

    def kind(self, id: str) -> Any:
        """The type of a component: its own, or that of the one it is `like` or a `copy` of."""
        seen: set[str] = set()
        while id in self.tables and id not in seen:
            seen.add(id)
            table = self.tables[id][0]
            if "type" in table:
                return table["type"]
            id = self.scoped(model_of(table), id)
        return ""

    def scoped(self, name: Any, user: str) -> str:
        """The id that a name means for a component: first beside it inside its block, then outside."""
        prefix = user
        while prefix := prefix.rpartition(".")[0]:
            if f"{prefix}.{name}" in self.tables and f"{prefix}.{name}" != user:
                return f"{prefix}.{name}"
        return str(name)

    def _build(self, id: str, table: Mapping[str, Any], path: Path) -> Component | None:
        if model_of(table) is not None and self.raw_fields(id) is None:
            return None
        cls = self.component_class(self.kind(id), (*path, "type"))
        if cls is None:
            return None
        fields = self.raw_fields(id)
        if fields is None:
            return None
        for key in ("of", "like", "copy"):
            other = self.scoped(single(table[key]), id) if key in table else ""
            if other in self.tables and self.build(other) is None:
                return None  # its fields are at fault there, and no second time here
        from .filling import with_fillings

        fields = with_fillings(self.spec, self.found, fields, path)
        return self.validate(cls, {k: v for k, v in fields.items() if k in cls.model_fields or k in table}, path)

    def component_class(self, kind: Any, path: Path) -> type[Component] | None:
        """The class behind a type name, or None after reporting why there is none."""
        if not isinstance(kind, str) or not kind:
            self.found.add(Diagnostic(C.UNKNOWN_COMPONENT, "the component has no type", self.label(path[:-1], 'add `type = "..."`', "key")))
            return None
        return self.component_class_at(kind, self.label(path, "needed here"))

    def component_class_at(self, kind: str, at: Label | None) -> type[Component] | None:
        try:
            cls = registry().load(kind)
        except PluginError as error:
            self.found.add(plugin_diagnostic(error, at))
            return None
        if isinstance(cls, type) and issubclass(cls, Component):
            return cls
        layer = isinstance(cls, type) and issubclass(cls, Layer)
        note = f"{kind} fills a slot inside a block" if layer else f"{kind} is {cls!r}"
        self.found.add(Diagnostic(C.UNKNOWN_COMPONENT, f"{kind!r} cannot stand in the graph", at, notes=(note,)))
        return None

    def raw_fields(self, id: str) -> dict[str, Any] | None:
        """Preset fields under the table's own, with what `of` and `like` bring."""
        if id in self._raw:
            return self._raw[id]
        table, path = self.tables[id]
        if id in self._active:
            chain = " -> ".join([*self._active[self._active.index(id) :], id])
            self.found.add(Diagnostic(C.REFERENCE_CYCLE, f"`of` and `like` go round in a circle: {chain}", self.label(path, "", "key")))
            return None
        self._active.append(id)
        try:
            fields = self._raw_fields(id, table, path)
        finally:
            self._active.pop()
        if fields is not None:
            self._raw[id] = fields
        return fields

    def _raw_fields(self, id: str, table: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
        kind = self.kind(id)
        own = {k: v for k, v in table.items() if k not in RESERVED and (k, v) != ("per", "level")}
        fields: dict[str, Any] = {}
        for key in ("like", "copy"):
            if key in table:
                other = self.reference(self.scoped(single(table[key]), id), (*path, key))
                if other is None:
                    return None
                fields.update(other)
        if "preset" in table:
            try:
                fields.update(load_preset(table["preset"], kind).fields)
            except PresetError as error:
                self.found.add(self.preset_diagnostic(error, path))
                return None
        if "of" in table:
            target = self.scoped(table["of"], id)
            other = self.reference(target, (*path, "of"))
            cls = self.component_class(kind, (*path, "type"))
            if other is None or cls is None:
                return None
            target_cls = self.component_class(self.kind(target), (*path, "of"))
            for name in cls.shares:
                if name in other:
                    fields.setdefault(name, other[name])
                elif target_cls is not None and name in target_cls.model_fields:
                    default = target_cls.model_fields[name].default
                    if default is not None and name in cls.model_fields:
                        fields.setdefault(name, default)
        return merged(fields, own)

    def reference(self, name: Any, path: Path) -> dict[str, Any] | None:
        if not isinstance(name, str) or name not in self.tables:
            near = difflib.get_close_matches(str(name), list(self.tables), 1)
            fix = f"write {near[0]!r}" if near else None
            self.found.add(Diagnostic(C.UNKNOWN_NODE, f"there is no component {name!r}", self.label(path, "named here"), fix=fix))
            return None
        return self.raw_fields(name)

    def preset_diagnostic(self, error: PresetError, path: Path) -> Diagnostic:
        at = self.label((*path, "preset"), str(error.reason).replace("_", " "))
        if error.reason == "wrong_type":
            other = self.label((*path, "type"), "for this type")
            return Diagnostic(C.PRESET_WRONG_TYPE, str(error), at, (other,) if other else ())
        near = getattr(error, "near", ())
        return Diagnostic(
            C.UNKNOWN_PRESET, str(error), at, fix=f"did you mean {near[0]!r}?" if near else "`vlmgraph list presets` shows all"
        )

    def validate(self, cls: type[Component], fields: Mapping[str, Any], path: Path) -> Component | None:
        try:
            return self.sound(cls(**self.with_ids(cls, fields, path)), path)
        except ValidationError as error:
            for finding in error.errors():
                self.found.add(field_diagnostic(self.spec, cls, finding, path))
        except TypeError as error:  # a field name that is not a string-keyed identifier
            self.found.add(Diagnostic(C.INVALID_FIELD, str(error), self.label(path, "", "key")))
        return None

    def sound(self, config: Component, path: Path, at: Label | None = None) -> Component | None:
        wrong = unsound(self.spec, config, path, at) if isinstance(config, Component) else None
        if wrong is not None:
            self.found.add(wrong)
        return config if wrong is None else None

    def validate_at(self, cls: type[Component], fields: Mapping[str, Any], at: Label | None) -> Component | None:
        """As `validate`, for an inline op, whose fields all stand at one place."""
        try:
            return self.sound(cls(**self.with_ids(cls, fields, (), at)), (), at)
        except (ValidationError, TypeError) as error:
            lines = (
                [f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
                if isinstance(error, ValidationError)
                else [str(error)]
            )
            self.found.add(
                Diagnostic(C.INVALID_FIELD, f"{cls.kind}: {'; '.join(lines)}", at, notes=("fields: " + ", ".join(cls.model_fields),))
            )
            return None

    def with_ids(self, cls: type[Component], fields: Mapping[str, Any], path: Path, at: Label | None = None) -> dict[str, Any]:
        """The fields with ids in the place of token names; `at` is their place where they have no path of their own."""
        values: dict[str, Any] = {}
        for name, value in fields.items():
            info = cls.model_fields.get(name)
            marked = info is not None and _has_token(info.annotation, info.metadata)
            values[name] = self.token_ids(value, (*path, name), at) if marked else value
        return values

    def token_ids(self, value: Any, path: Path, at: Label | None = None) -> Any:
        """Token names → ids from `[tokens]`, inside lists and tables too."""
        if isinstance(value, Mapping):
            return {k: self.token_ids(v, (*path, k), at) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.token_ids(v, (*path, i), at) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value in self.tokens:
            return self.tokens[value]
        if self.spec.lacks("tokens", value):
            return 0
        near = difflib.get_close_matches(value, list(self.tokens), 1)
        fix = f"did you mean {near[0]!r}?" if near else f'add `"{value}" = ID` to [tokens]'
        self.found.add(Diagnostic(C.UNKNOWN_TOKEN, f"token {value!r} has no id in [tokens]", at or self.label(path, "used here"), fix=fix))
        return 0


def model_of(table: Mapping[str, Any]) -> Any:
    """What a component is `like`, or a `copy` of; None where it stands by itself."""
    return single(table["like"]) if "like" in table else single(table["copy"]) if "copy" in table else None


def single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def plugin_diagnostic(error: PluginError, at: Label | None) -> Diagnostic:
    """What `check` says of a component that cannot be loaded."""
    if error.reason == "unknown":
        near = difflib.get_close_matches(error.name, error.near, 1, 0.8)  # another part of the same family is no misspelling
        fix = f"did you mean {near[0]!r}?" if near else "install the plugin that provides it; `vlmgraph plugins` lists what is here"
        return Diagnostic(C.UNKNOWN_COMPONENT, f"there is no component type {error.name!r}", at, fix=fix)
    code, text, fix = {
        "clash": (C.PLUGIN_CLASH, f"{error.name!r} is provided twice: {error.detail}", "uninstall one of the packages"),
        "import": (C.PLUGIN_IMPORT, f"the plugin of {error.name!r} failed to import: {error.detail}", "repair or uninstall the package"),
        "api": (C.PLUGIN_API, f"the plugin of {error.name!r} was {error.detail}", "install a release of it for this version"),
    }[error.reason]
    return Diagnostic(code, text, at, fix=fix)


def _has_token(annotation: Any, metadata: Any) -> bool:
    if any(isinstance(m, TokenMark) for m in metadata):
        return True
    return any(isinstance(arg, TokenMark) or _has_token(arg, getattr(arg, "__metadata__", ())) for arg in get_args(annotation))


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge by key; a table with a new `type` replaces the whole table. A bare number is a field of a slot's table."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and value.get("type", below.get("type")) == below.get("type"):
            result[key] = merged(below, value)
        elif isinstance(value, Mapping) and isinstance(below, str) and "type" not in value:
            result[key] = {"type": below, **value}
        elif isinstance(value, Mapping) and _number(below) and key in NUMBERED:
            result[key] = {NUMBERED[key]: below, **value}
        elif _number(value) and isinstance(below, Mapping) and "type" in below and key in NUMBERED:
            result[key] = {**below, NUMBERED[key]: value}
        else:
            result[key] = value
    return result


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
