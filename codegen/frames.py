"""Where the partial evaluator stands: a function's variables, the statements written so far, what is still to be read."""

from __future__ import annotations

import ast
import keyword
from dataclasses import dataclass, field
from typing import Any

from .abstract import Dynamic, Known, Mod, Seq, Table, Value, mentions
from .trees import assign, name


@dataclass(eq=False)
class Frame:
    """One function being followed. Inlined calls have a frame of their own that writes into the same text."""

    module: str
    node: Any
    owner: type | None
    me: Mod | None
    env: dict[str, Value]
    unit: Any
    parent: Frame | None = None
    out: list[Any] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Variable of the source → variable written."""
    futures: list[set[str]] = field(default_factory=list)
    """Names read after the present statement, for each block it stands in."""
    depth: int = 0
    """How many conditions and loops of run time are around."""
    whole: bool = False
    """Whether the present call is all of its statement's right side, so that names may be taken over."""
    assigning: frozenset[str] = frozenset()
    """Variables that the present statement writes anew."""
    returns: list[Value] = field(default_factory=list)
    attempt: bool = False
    result: Value | None = None
    """What the function gives where its last statement says so."""
    branch: int = 0
    loop_branch: int = 0
    """How many conditions of run time are around in this function alone."""

    def chain(self) -> list[Frame]:
        return [self, *(self.parent.chain() if self.parent else [])]

    def alive(self, variable: str) -> bool:
        """Whether the present value is still read after this statement."""
        return variable not in self.assigning and any(variable in future for future in self.futures)

    def written(self, variable: str) -> str:
        """The name under which a variable of the source is written; another one where it would hide one still needed."""
        if variable not in self.names:
            self.names[variable] = self.fresh(variable)
        return self.names[variable]

    def fresh(self, wanted: str) -> str:
        if keyword.iskeyword(wanted) or not wanted.isidentifier():
            wanted = f"{wanted}_"
        if self.parent is None:
            return wanted
        options = [wanted, *(f"{wanted}_{i}" for i in range(2, 50))]
        return next(o for o in options if not self.parent.needs(o, self.parent.whole))

    def needs(self, text: str, whole: bool) -> bool:
        """Whether a written name still stands for something here or further out."""
        for variable, value in self.env.items():
            held = self.names.get(variable) == text or mentions(value, text)
            if held and (not whole or self.alive(variable)):
                return True
        return self.parent.needs(text, whole and self.parent.whole) if self.parent else False

    def emit(self, statement: Any) -> None:
        self.out.append(statement)

    def bind(self, variable: str, value: Value, source: Any = None) -> None:
        """Assign: what is known stays known; an expression of run time is written out."""
        if isinstance(value, Table):
            value = self.tabled(variable, value)
        if isinstance(value, Known) and isinstance(value.tree, (ast.BinOp, ast.Call)):
            text = self.written(variable)
            tree = value.lift()
            self.rescue(text)
            self.emit(assign(text, tree))
            value = Known(value.value, name(text))
        if isinstance(value, Dynamic) and not value.atomic:
            text = self.written(variable)
            tree = value.lift()
            self.rescue(text)
            statement = assign(text, tree)
            for mark in ("lead", "trail"):
                if getattr(source, mark, None):
                    setattr(statement, mark, getattr(source, mark))
            statement.inlined = self.parent is not None  # type: ignore[attr-defined]
            self.emit(statement)
            value = Dynamic(name(text), value.sample, value.none, value.loose)
        self.env[variable] = value

    def tabled(self, variable: str, value: Table) -> Table:
        """A dict whose longer entries have variables."""
        one = variable.removesuffix("s") if variable.endswith("s") else variable
        items: dict[Any, Value] = {}
        for key, entry in value.items.items():
            if isinstance(entry, Dynamic) and not entry.atomic:
                text = self.fresh(one if len(value.items) == 1 else f"{identifier(key)}_{one}")
                held = text in self.env and (self.alive(text) or any(self.alive(k) and mentions(v, text) for k, v in self.env.items()))
                text = f"{text}_" if held else text
                self.rescue(text)
                self.emit(assign(text, entry.lift()))
                entry = Dynamic(name(text), entry.sample, entry.none, entry.loose)
            items[key] = entry
        return Table(items, value.depth, value.partial)

    def rescue(self, text: str) -> None:
        """Before `text` is written anew: give another name to what still is read under it."""
        for frame in self.chain():
            for variable, value in list(frame.env.items()):
                if frame.names.get(variable) == text and isinstance(value, Dynamic):
                    continue
                if not mentions(value, text) or not (frame.alive(variable) or frame.parent is not None):
                    continue
                frame.env[variable] = self.saved(value, text, variable, frame)

    def saved(self, value: Any, text: str, variable: str, frame: Frame) -> Value:
        if isinstance(value, Seq):
            return Seq([self.saved(v, text, f"{variable}_{i}", frame) for i, v in enumerate(value.items)], value.kind, value.depth)
        if isinstance(value, Table):
            return Table({k: self.saved(v, text, identifier(k), frame) for k, v in value.items.items()}, value.depth)
        if not isinstance(value, Dynamic) or not mentions(value, text):
            return value
        other = variable if variable != text else f"{variable}_before"
        taken = {n for f in self.chain() for n in f.names.values()}
        while other in taken and other != frame.names.get(variable):
            other += "_"
        frame.names.setdefault(variable, other)
        self.emit(assign(other, value.lift()))
        return Dynamic(name(other), value.sample, value.none, value.loose)

    def settle(self, variable: str) -> None:
        """Write a variable's value out under its own name, so that it may change at run time."""
        value = self.env[variable]
        text = self.written(variable)
        tree = getattr(value, "tree", None)
        if isinstance(tree, ast.Name) and tree.id == text:
            if isinstance(value, Known):
                self.env[variable] = Dynamic(tree, value.value)
            return
        self.rescue(text)
        self.emit(assign(text, value.lift()))
        sample = value.sample if isinstance(value, Dynamic) else _sample(value)
        none = value.none if isinstance(value, Dynamic) else _sample(value) is None
        self.env[variable] = Dynamic(name(text), sample, none, getattr(value, "loose", False))


def _sample(value: Value) -> Any:
    from .abstract import samples

    return samples(value)


def identifier(key: Any) -> str:
    import re

    text = re.sub(r"\W+", "_", str(key)).strip("_") or "value"
    return text if text.isidentifier() else f"v_{text}"
