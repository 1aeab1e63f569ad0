"""A name, a path or a dict → a `Spec`: `extends`, variant, size, stage and overrides applied, everything wrong collected."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..diagnostics import Collector, Diagnostic, Label, Span
from ..diagnostics import codes as C
from . import locate
from .model import SpecModel
from .overlay import Overlay, near
from .override import Override, assign, parse_pairs
from .toml import MAX_BYTES, read_toml
from .tree import Layer, Origin, Tree, from_document, from_plain
from .tree import Path as Keys
from .validate import validate, validate_overlay

MAX_EXTENDS = 16


@dataclass
class Spec:
    """A merged spec. Wrong parts are named in `diagnostics`; what is left is usable."""

    tree: Tree
    name: str
    file: str | None = None
    size: str | None = None
    variant: str | None = None
    stage: str | None = None
    diagnostics: list[Diagnostic] = field(default_factory=list)
    model: SpecModel = field(default_factory=lambda: SpecModel(vlmgraph=1))
    sizes: dict[str, Any] = field(default_factory=dict)
    """The overlays as written, not applied."""
    variants: dict[str, Any] = field(default_factory=dict)
    left_out: set[Keys] = field(default_factory=set)
    """Paths of what is wrong in itself, and in the values no more: to miss it is no further finding."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """The merged values: no sizes, variants or `extends` any more."""
        plain: dict[str, Any] = self.tree.plain()
        return plain

    @cached_property
    def origins(self) -> dict[Keys, Origin]:
        """Where each value came from, by path."""
        return {path: tree.origin for path, tree in self.tree.walk()}

    def leave_out(self, paths: set[Keys]) -> None:
        """Drop what a finding is about."""
        self.left_out |= paths
        self.tree = self.tree.without(paths)
        self.__dict__.pop("data", None)
        self.__dict__.pop("origins", None)

    def lacks(self, table: str, name: str) -> bool:
        """Whether a name is missing only because it, or its whole table, was left out."""
        return (table,) in self.left_out or (table, name) in self.left_out

    def origin(self, path: Keys) -> Origin | None:
        """Where a value came from; of something that is not there, where the nearest table around it came from."""
        for length in range(len(path), -1, -1):
            found = self.origins.get(tuple(path[:length]))
            if found is not None and (found.span is not None or length == len(path) or found.layer == "override"):
                return found
        return None

    def label(self, path: Keys, text: str = "", part: str = "value") -> Label | None:
        """The place of a key or value and what to say of it; the key around it where it has no place itself."""
        for length in range(len(path), 0, -1):
            found = self.origins.get(tuple(path[:length]))
            if found is None or (found.span is None and found.key is None):
                continue
            span = found.span if part == "value" and length == len(path) else found.key
            return Label(span or found.span or found.key, text)  # type: ignore[arg-type]
        return None


def read_spec(
    source: str | Path | Mapping[str, Any],
    *,
    size: str | None = None,
    variant: str | None = None,
    stage: str | None = None,
    overrides: Mapping[str, object] | Sequence[str] | None = None,
    search: Sequence[Path] | None = None,
) -> Spec:
    """Read a spec by name (`cogvlm`, `blip-2:opt`), by path, or from a dict, and lay the overlays over it in this order:
    `extends`, variant, size, stage, overrides. With overrides that say nothing of it, `[expect]` is left out.

    Never raises for a bad spec: findings are in `.diagnostics`. `search` are folders looked into before the bundled specs.
    """
    reader = _Reader(Collector(), [Path(folder) for folder in search or ()])
    if not isinstance(source, Mapping):
        source, _, named = _reference(source)
        variant = variant or named or None
    tree, name, file = reader.open(source)
    found = reader.found
    broken = reader.broken
    sizes, variants = tree.get("sizes"), tree.get("variants")
    if not broken:
        for kind, chosen in (("variants", variant), ("sizes", size)):
            if chosen is not None:
                tree = reader.overlaid(tree, kind, chosen)
        if stage is not None:
            tree = reader.staged(tree, stage)
        tree = reader.overridden(tree, overrides)
    merged = Tree({key: value for key, value in tree.table.items() if key not in ("sizes", "variants", "extends")}, tree.origin)
    spec = Spec(merged, name, file, size, variant, stage, found.found)
    spec.sizes = sizes.plain() if sizes is not None and sizes.table else {}
    spec.variants = variants.plain() if variants is not None and variants.table else {}
    if tree.table or not broken:
        spec.model = validate(spec, found)
        validate_overlay(tree, found)
    if broken:  # a part of a spec: to miss the rest in it is no finding
        spec.leave_out({(key,) for key in spec.data})
    return spec


def toml(path: Path) -> dict[str, Any]:
    """The values of one file as they stand, for lists; empty where it is not TOML."""
    return read_toml(path.read_text(encoding="utf-8", errors="replace"), str(path)).data


def _reference(source: str | Path) -> tuple[str | Path, str, str]:
    """`name:variant` apart. Paths are left whole."""
    if isinstance(source, Path) or _is_path(source):
        return source, "", ""
    return source.partition(":")


def _is_path(source: str) -> bool:
    return source.endswith(".toml") or "/" in source or os.sep in source


@dataclass
class _Reader:
    found: Collector
    search: list[Path]
    gone: set[Keys] = field(default_factory=set)
    """What variants have removed: a size does not bring it back."""
    broken: bool = False
    """Whether a file could not be read, so that what is there is not the whole spec."""

    # ---- files

    def open(self, source: str | Path | Mapping[str, Any]) -> tuple[Tree, str, str | None]:
        """The tree of a source with what it extends, its name and its file."""
        empty = Tree({}, Origin("spec"))
        if isinstance(source, Mapping):
            try:
                tree = from_plain({"vlmgraph": 1, **source}, Origin("spec"))
            except ValueError as error:
                self.fail(Diagnostic(C.WRONG_VALUE, str(error)))
                return empty, "spec", None
            name = tree.text("model", "name") or "spec"
            return self.extended(tree, [], None), name, None
        if isinstance(source, Path) or _is_path(source):
            path: Path | Diagnostic = Path(source)
        else:
            path = locate.find(source, self.search, None)
            if isinstance(path, Diagnostic) and Path(source).is_file():
                path = Path(source)
        if isinstance(path, Diagnostic):
            self.fail(path)
            return empty, str(source), None
        return self.file(path, [], None) or empty, path.stem, str(path)

    def fail(self, diagnostic: Diagnostic) -> None:
        """Report why a file, or the rest of a spec, is not there."""
        self.broken = True
        self.found.add(diagnostic)

    def file(self, path: Path, chain: list[Path], at: Label | None) -> Tree | None:
        """A file's values over those of the spec that it extends. None when it cannot be read."""
        text = self.text(path, at)
        if text is None:
            return None
        document = read_toml(text, str(path))
        if document.diagnostics:
            for diagnostic in document.diagnostics:
                self.fail(diagnostic)
            return None
        return self.extended(self.meant(from_document(document)), [*chain, path], path)

    def meant(self, tree: Tree) -> Tree:
        """The tree without values that TOML has and specs have not: dates, times, integers beyond 64 bits."""
        if isinstance(tree.value, dict):
            children = {key: self.meant(child) for key, child in tree.value.items() if self.usable(child)}
            return Tree(children, tree.origin)
        if isinstance(tree.value, list):
            return Tree([self.meant(child) for child in tree.value if self.usable(child)], tree.origin)
        return tree

    def usable(self, tree: Tree) -> bool:
        value = tree.value
        if isinstance(value, (dict, list, str, float)) or (isinstance(value, int) and abs(value) < 2**63):
            return True
        what = "an integer of more than 64 bits" if isinstance(value, int) else "a date or time"
        at = Label(tree.origin.span) if tree.origin.span else None
        self.found.add(Diagnostic(C.WRONG_VALUE, f"{what} has no meaning in a spec", at, fix="write it as a string"))
        return False

    def text(self, path: Path, at: Label | None) -> str | None:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe or device might never end
                what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
                self.fail(Diagnostic(C.NOT_FOUND, f"cannot read {path}: it is {what}", at))
                return None
            if status.st_size > MAX_BYTES:
                self.fail(Diagnostic(C.BAD_TOML, f"{path} has more than {MAX_BYTES:,} bytes: this is not a spec", at))
                return None
            raw = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.fail(Diagnostic(C.NOT_FOUND, f"cannot read {path}: {reason}", at))
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
            place = Label(Span(str(path), line, column, line, column + 1), f"byte 0x{raw[error.start]:02x}")
            self.fail(Diagnostic(C.NOT_TEXT, f"{path.name} is not UTF-8 text", place, fix="save the file as UTF-8"))
            return None

    def extended(self, tree: Tree, chain: list[Path], path: Path | None) -> Tree:
        """The tree over the spec that it extends."""
        extends = tree.table.get("extends")
        if extends is None or not isinstance(extends.value, str):
            return tree  # a value of another kind is the model's finding
        at = Label(extends.origin.span, "named here") if extends.origin.span else None
        own = Tree({key: value for key, value in tree.table.items() if key != "extends"}, tree.origin)
        name, _, variant = extends.value.partition(":")
        if len(chain) > MAX_EXTENDS:
            self.fail(Diagnostic(C.BAD_EXTENDS, f"more than {MAX_EXTENDS} specs extend one another", at))
            return own
        siblings = [path.parent] if path is not None else []
        target = locate.find(name, [*siblings, *self.search], at, C.BAD_EXTENDS)
        if isinstance(target, Diagnostic):
            self.fail(target)
            return own
        if any(_same(target, other) for other in chain):
            circle = " -> ".join([*(p.stem for p in chain), target.stem])
            text = "the spec extends itself" if _same(target, chain[-1]) else f"these specs extend one another in a circle: {circle}"
            self.fail(Diagnostic(C.EXTENDS_CYCLE, text, at, fix="extend another spec, or copy what is needed"))
            return own
        base = self.file(target, chain, at)
        if base is None:
            return own
        if variant:
            base = self.overlaid(base, "variants", variant, at)
        return Overlay(self.found).apply(base.tagged("extends", extends.value), own)

    # ---- overlays

    def overlaid(self, tree: Tree, kind: str, name: str, at: Label | None = None) -> Tree:
        """The tree under one of its sizes or variants, and under those that it extends."""
        layer: Layer = "variant" if kind == "variants" else "size"
        table = tree.get(kind) or Tree({}, Origin("spec"))
        chain: list[tuple[str, Tree]] = []
        wanted: str | None = name
        while wanted is not None:
            overlay = table.table.get(wanted)
            if any(wanted == earlier for earlier, _ in chain):
                names = " -> ".join([*(earlier for earlier, _ in chain), wanted])
                self.found.add(Diagnostic(C.EXTENDS_CYCLE, f"{kind} extend one another in a circle: {names}", at))
                break
            if overlay is None:
                code = C.UNKNOWN_VARIANT if layer == "variant" else C.UNKNOWN_SIZE
                note = f"{kind}: {', '.join(table.table) or 'none'}"
                self.found.add(Diagnostic(code, f"there is no {layer} {wanted!r}", at, notes=(note,), fix=near(wanted, table.table)))
                break
            chain.append((wanted, overlay))
            extends = overlay.table.get("extends")
            wanted = extends.value if extends is not None and isinstance(extends.value, str) else None
            at = Label(extends.origin.span, "named here") if extends is not None and extends.origin.span else None
        merging = Overlay(self.found, strict=True, keeps_gone=layer == "size", gone=self.gone)
        for title, overlay in reversed(chain):
            own = Tree({key: value for key, value in overlay.table.items() if key not in ("extends", kind)}, overlay.origin)
            tree = merging.apply(tree, own.tagged(layer, title))
        return tree

    def staged(self, tree: Tree, name: str) -> Tree:
        """The tree as it is during a stage: its `set`, of a curriculum all steps up to the last, or to `stage:STEP`."""
        name, _, step = name.partition(":")
        stages = tree.get("stages") or Tree({}, Origin("spec"))
        stage = stages.table.get(name)
        if stage is None:
            note = f"stages: {', '.join(stages.table) or 'none'}"
            self.found.add(Diagnostic(C.UNKNOWN_STAGE, f"there is no stage {name!r}", notes=(note,), fix=near(name, stages.table)))
            return tree
        if (variant := stage.text("variant")) is not None:
            tree = self.overlaid(tree, "variants", variant)
        change = stage.table.get("set")
        steps = [] if change is None else change.items or [change]
        if step:
            if not step.isdecimal() or int(step) >= len(steps):
                self.found.add(Diagnostic(C.UNKNOWN_STAGE, f"stage {name!r} has {len(steps)} steps, counted from 0, and no step {step!r}"))
                return tree
            steps = steps[: int(step) + 1]
        for overlay in steps:
            for key, value in overlay.table.items():
                tree = assign(tree, Override(key, value.tagged("stage", name)), self.found)
        return tree

    def overridden(self, tree: Tree, overrides: Mapping[str, object] | Sequence[str] | None) -> Tree:
        """`[expect]` is left behind: its numbers are those of the model as published, not of one changed by hand."""
        pairs = list(parse_pairs(overrides or (), self.found))
        if pairs and not any(override.key.split(".")[0] == "expect" for override in pairs):
            tree = tree.without({("expect",)})
        for override in pairs:
            tree = assign(tree, override, self.found)
        return tree


def _same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return left == right
