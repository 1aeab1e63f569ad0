"""Calls of builtins, of torch, and of methods of values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .abstract import (
    UNKNOWN,
    Dynamic,
    Escape,
    Known,
    Method,
    Mod,
    Over,
    Py,
    Seq,
    Table,
    Unsupported,
    Value,
    known,
    plain,
    samples,
    unwrapped,
)  # fmt: skip
from .cached import CacheStand
from .containers import Containers
from .frames import Frame
from .knowledge import attempted, holds_none, is_loose, may_be_none
from .stand import Stand
from .trees import attribute
from .units import (
    id_or,
)  # fmt: skip

SMALL_METHOD, SMALL_FUNCTION = 24, 11
"""Nodes of an expression up to which a call is replaced by it."""
STRICT_DTYPE = {"bool", "long", "float", "int", "any", "all"}
PURE = (len, max, min, int, float, bool, str, round, sum, abs, all, any)


class Builtins(Containers):
    """What is known now is computed now."""

    def value_method(self, target: Method, args: list[Value], keywords: dict[str, Value], frame: Frame) -> Value:
        owner, attr = target.owner, target.name
        if isinstance(owner, Dynamic):
            return self.dynamic_method(owner, attr, args, keywords)
        if isinstance(owner, Table):
            if attr == "get" and known(args[0]):
                return owner.items.get(unwrapped(args[0]), args[1] if len(args) > 1 else Known(None))
            if attr == "items":
                return Seq([Seq([Known(k), v]) for k, v in owner.items.items()])
            if attr == "values":
                return Seq(list(owner.items.values()))
            if attr == "keys":
                return Seq([Known(k) for k in owner.items])
        if isinstance(owner, Seq) and attr == "append" and len(args) == 1:
            if owner.depth != frame.depth:
                raise Escape("a list that grows under a condition")
            owner.items.append(args[0])
            return Known(None)
        if known(owner) and all(known(a) for a in args) and not keywords:
            return plain(getattr(unwrapped(owner), attr)(*(unwrapped(a) for a in args)))
        raise Unsupported(f"the method {attr} of a {type(owner).__name__}")

    def dynamic_method(self, owner: Dynamic, attr: str, args: list[Value], keywords: dict[str, Value]) -> Value:
        if isinstance(owner.sample, Stand) and not args and not keywords:
            if attr == "dim":
                return Known(owner.sample.dim())
            if attr == "is_floating_point" and not owner.loose:
                return Known(owner.sample.is_floating_point())
        self.escape(*args, *keywords.values())
        given, named = [samples(a) for a in args], {k: samples(v) for k, v in keywords.items()}
        sample = UNKNOWN
        if owner.sample is not UNKNOWN and UNKNOWN not in map(id_or, (*given, *named.values())):
            sample = attempted(lambda: getattr(owner.sample, attr)(*given, **named))
        if isinstance(owner.sample, CacheStand):
            none = owner.sample.none(attr, given) and any(map(may_be_none, args))
            return Dynamic(self.plain_call(attribute(owner.lift(), attr), args, keywords), sample, none)
        loose = owner.loose and attr not in STRICT_DTYPE
        return Dynamic(self.plain_call(attribute(owner.lift(), attr), args, keywords), sample, loose=loose)

    def python_call(self, target: Py, args: list[Value], keywords: dict[str, Value], stars: bool, frame: Frame) -> Value:
        found = target.object
        special = getattr(self, f"call_{getattr(found, '__name__', '')}", None)
        if special is not None and getattr(found, "__module__", "") == "builtins":
            result = special(args, keywords, target, frame)
            if result is not None:
                return result
        if getattr(found, "__self__", None) is dict and getattr(found, "__name__", "") == "fromkeys" and known(args[0]):
            return plain(dict.fromkeys(unwrapped(args[0])))
        if (found in PURE or getattr(math, getattr(found, "__name__", ""), None) is found) and all(map(known, (*args, *keywords.values()))):
            value = found(*(unwrapped(a) for a in args), **{k: unwrapped(v) for k, v in keywords.items()})
            traced = any(getattr(a, "tree", None) is not None for a in args)
            return Known(value, self.plain_call(target.lift(), args, keywords) if traced else None)
        if found is torch.cat and isinstance(args[0], Seq) and len(args[0].items) == 1:
            return args[0].items[0]
        self.escape(*args, *keywords.values())
        keywords = {k: v for k, v in keywords.items() if not (k in ("attn_mask", "scale") and isinstance(v, Known) and v.value is None)}
        tree = self.plain_call(target.lift(), args, keywords)
        if stars or (isinstance(found, type) and issubclass(found, BaseException)):
            return Dynamic(tree)
        given, named = [samples(a) for a in args], {k: samples(v) for k, v in keywords.items()}
        sample = UNKNOWN
        if UNKNOWN not in map(id_or, (*given, *named.values())):
            sample = attempted(lambda: found(*given, **named))
        if isinstance(sample, (dict, list, tuple)) and any(map(holds_none, (*args, *keywords.values()))):
            sample = UNKNOWN  # which of its parts may be None is not known
        return Dynamic(tree, sample, loose=is_loose(*args))

    def call_len(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        value = args[0]
        if isinstance(value, (Seq, Table)):
            return Known(len(value.items))
        if isinstance(value, Over):
            return Known(len(value.elements))
        if isinstance(value, Mod):
            counts = {len(m) for m in value.modules}  # type: ignore[arg-type]
            return Known(counts.pop()) if len(counts) == 1 else None
        return None

    def call_isinstance(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        value, classes = args
        if not isinstance(classes, (Py, Seq)):
            return None
        wanted = classes.object if isinstance(classes, Py) else tuple(c.object for c in classes.items)  # type: ignore[attr-defined]
        if isinstance(value, Mod):
            found = {isinstance(m, wanted) for m in value.modules}
            return Known(found.pop()) if len(found) == 1 else None
        kind = {Seq: getattr(value, "kind", tuple), Table: dict}.get(type(value))
        if kind is not None:
            return Known(issubclass(kind, wanted))
        if isinstance(value, Known):
            return Known(isinstance(value.value, wanted))
        if isinstance(value, Dynamic) and value.sample is not UNKNOWN and not value.none:
            return Known(issubclass(Tensor if isinstance(value.sample, Stand) else type(value.sample), wanted))
        return None

    def call_getattr(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return self.attribute_of(args[0], args[1].value) if isinstance(args[1], Known) else None

    def call_hasattr(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return (
            Known(all(hasattr(m, args[1].value) for m in args[0].modules))
            if isinstance(args[0], Mod) and isinstance(args[1], Known)
            else None
        )

    def _as(self, kind: type, args: list[Value]) -> Value | None:
        if not args:
            return Seq([], kind)
        parts = self.iterated(args[0])
        return None if parts is None else Seq(list(parts), kind)

    def call_tuple(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return self._as(tuple, args)

    def call_list(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        made = self._as(list, args)
        if isinstance(made, Seq):
            made.depth = frame.depth
        return made

    def call_dict(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if not args:
            return Table(dict(keywords), frame.depth)
        if isinstance(args[0], Table):
            return Table(dict(args[0].items), frame.depth)
        pairs = self.iterated(args[0])
        if pairs is None or not all(isinstance(p, Seq) and len(p.items) == 2 and known(p.items[0]) for p in pairs):
            return None
        return Table({unwrapped(p.items[0]): p.items[1] for p in pairs}, frame.depth)  # type: ignore[attr-defined]

    def call_range(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if not all(isinstance(a, Known) for a in args):
            return None
        return Over([Known(i) for i in range(*(a.value for a in args))], self.plain_call(target.lift(), args, {}), "index")  # type: ignore[attr-defined]

    def call_map(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if len(args) != 2 or not isinstance(args[0], Py) or not known(args[1]):
            return None
        return plain(tuple(map(args[0].object, unwrapped(args[1]))))

    def call_reversed(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        parts = self.iterated(args[0])
        return None if parts is None else Over(list(reversed(parts)), self.plain_call(target.lift(), args, {}), "module")

    def call_enumerate(self, args: list[Value], keywords: dict[str, Value], target: Py, frame: Frame) -> Value | None:
        parts = self.iterated(args[0])
        start = args[1] if len(args) > 1 else keywords.get("start", Known(0))
        if parts is None or not isinstance(start, Known):
            return None
        inner = args[0].pattern if isinstance(args[0], Over) else "module"
        items: list[Value] = [Seq([Known(start.value + i), p]) for i, p in enumerate(parts)]
        return Over(items, self.plain_call(target.lift(), args, keywords), ("index", inner), [args[0], start])

    def call_zip(self, args: list[Value], keywords: dict[str, Value], target: Py, frame: Frame) -> Value | None:
        columns = [self.iterated(a) for a in args]
        if any(c is None for c in columns):
            return None
        patterns = tuple(a.pattern if isinstance(a, Over) else "module" for a in args)
        return Over([Seq(list(row)) for row in zip(*columns)], self.plain_call(target.lift(), args, {}), patterns)  # type: ignore[arg-type]
