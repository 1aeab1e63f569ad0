"""A graph in onnxruntime with its inputs and outputs bound: between the steps of decoding only what changed is bound anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .run import as_array

Values = dict[str, Any]
"""Arrays, or values in onnxruntime's memory."""
KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class Bound:
    """One use of a graph, in a prompt or in steps. `graph` and `step` are what the manifest says of both.

    With `shared` the caches that grow stand in buffers, bound once as what enters and what leaves; others are given back as new values.
    """

    def __init__(self, session: Any, graph: Mapping[str, Any], step: Mapping[str, Any]) -> None:
        self.session, self.graph, self.call = session, graph, session.io_binding()
        self.name: str = step["graph"]
        taken = {i.name: i.type for i in session.get_inputs()}
        self.reads = [(name, value, taken[name]) for name, value in step["reads"].items() if name in taken]
        self.needs = set(step["reads"].values())
        self.gives = list(step["gives"].items())
        slots = graph.get("cache", ())
        self.past = bool(graph.get("takes_past"))
        self.counts: str | None = graph.get("shared") if self.past else None
        self.held = [s for s in slots if self.counts and s["grows"]]
        self.moved = [s for s in slots if not (self.counts and s["grows"])]
        self.started = False
        self.buffers: list[Any] = []
        """What is bound as past and present: the memory is theirs."""
        self.last: Values = {}
        """What is bound to each input; arrays are this object's own."""
        self.sizes = {name: self.sized(name) for name, value in self.gives if value not in self.needs}
        self.kept: Values = {}
        """What is bound to an output whose size is that of the call before."""

    def __call__(self, values: Values, cache: Values, room: int = 0) -> None:
        """`values` and `cache` learn what the graph gives. Buffers are made with `room` for that many more tokens."""
        feed = self.feed(values)
        for name, value in feed.items():
            self.enter(name, value)
        if self.counts is not None and not self.started:
            self.bind(cache, feed, shape_of(feed[self.counts])[1], room)
        for slot in self.moved if self.past else ():
            if slot["past"] not in cache:
                cache[slot["past"]] = self.nothing(slot["past"], feed)
            self.enter(slot["past"], cache[slot["past"]])
        same = [self.leave(name, feed) for name, _ in self.gives]
        for slot in self.moved:
            self.call.bind_output(slot["present"])
        self.session.run_with_iobinding(self.call)
        self.started = True
        if all(same) and not self.moved:
            values |= ((value, self.kept[name]) for name, value in self.gives)
            return
        made = self.call.get_outputs()[len(self.held) :]  # those of buffers were bound first
        values |= zip((value for _, value in self.gives), made)
        cache |= zip((slot["past"] for slot in self.moved), made[len(self.gives) :])
        self.kept = dict(zip((name for name, _ in self.gives), made))

    def feed(self, values: Values) -> Values:
        """What enters by its name. Raises DiagnosticError where a value is missing."""
        missing = () if self.started else sorted(self.needs - set(values))
        for value in missing:
            text = f"{self.name} reads {value!r}, which is not given"
            fix = "give the inputs that the folder was exported with, an image among them"
            raise DiagnosticError(Diagnostic(C.MISSING_INPUT, text, fix=fix))
        return {name: typed(values[value], kind) for name, value, kind in self.reads}

    def enter(self, name: str, value: Any) -> None:
        """Bind an input, unless it is bound; an array of the size of the last one takes its place in memory."""
        last = self.last.get(name)
        if last is value:
            return
        if not isinstance(value, np.ndarray):
            self.call.bind_ortvalue_input(name, value)
            self.last[name] = value
        elif isinstance(last, np.ndarray) and last.shape == value.shape and last.dtype == value.dtype:
            np.copyto(last, value)
        else:
            own = self.last[name] = value.copy()
            self.call.bind_cpu_input(name, own)

    def leave(self, name: str, feed: Values) -> bool:
        """Bind an output; whether it goes into what it gave the last time, as its size is the same."""
        places, kept = self.sizes.get(name), self.kept.get(name)
        if places is None or kept is None:
            self.call.bind_output(name)
            return False
        size = [p if isinstance(p, int) else shape_of(feed[p[0]])[p[1]] for p in places]
        if list(kept.shape()) != size:
            self.call.bind_output(name)
            return False
        if self.last.get(name) is not kept:
            self.call.bind_ortvalue_output(name, kept)
            self.last[name] = kept
        return True

    def sized(self, name: str) -> list[int | tuple[str, int]] | None:
        """Of an output each size, or the input and the axis that has it; None where some size is no input's."""
        there = {i["name"]: i["dims"] for i in self.graph["inputs"] if i["name"] in {n for n, _, _ in self.reads}}
        where = {dim: (other, axis) for other, dims in there.items() for axis, dim in enumerate(dims) if not isinstance(dim, int)}
        dims = next((o["dims"] for o in self.graph["outputs"] if o["name"] == name), None)
        if dims is None or any(not isinstance(d, int) and d not in where for d in dims):
            return None
        return [d if isinstance(d, int) else where[d] for d in dims]

    def bind(self, cache: Values, feed: Values, total: int, room: int) -> None:
        """Buffers for `total` and `room` more tokens, those that the cache holds where they are buffers."""
        for slot in self.held:
            past = slot["past"]
            if past not in cache:
                cache[past] = self.nothing(past, feed)
            value = cache[past] = roomy(cache[past], total, room)
            self.buffers.append(value)
            self.call.bind_ortvalue_input(past, value)
            self.call.bind_ortvalue_output(slot["present"], value)

    def nothing(self, name: str, feed: Values) -> np.ndarray:
        """A cache of no token, with as many rows as what else enters."""
        dims: dict[str, list[Any]] = {i["name"]: i["dims"] for i in self.graph["inputs"]}
        batch = dims[name][0]
        rows = next(shape_of(value)[dims[other].index(batch)] for other, value in feed.items() if batch in dims[other])
        kind = next(i["dtype"] for i in self.graph["inputs"] if i["name"] == name)
        shape = [d if isinstance(d, int) else rows if axis == 0 else 0 for axis, d in enumerate(dims[name])]
        return np.zeros(shape, dtype={"float": np.float32, "float16": np.float16}[kind])


def roomy(held: Any, total: int, room: int) -> Any:
    """Keys or values [B, heads, past, d] in a buffer that holds `total` tokens and `room` more: the one they are in, where it does."""
    if not isinstance(held, np.ndarray) and held.shape()[2] >= total:
        return held
    there = as_array(held)
    batch, heads, past, width = there.shape
    buffer = np.zeros((batch, heads, total + room, width), dtype=there.dtype)
    buffer[:, :, :past] = there
    return onnxruntime.OrtValue.ortvalue_from_numpy(buffer)


def shape_of(value: Any) -> Sequence[int]:
    found: Sequence[int] = value.shape if isinstance(value, np.ndarray) else value.shape()
    return found


def typed(value: Any, kind: str) -> Any:
    """A value as an input of this type takes it."""
    if not isinstance(value, np.ndarray):
        if value.data_type() == kind:
            return value
        value = value.numpy()
    return np.ascontiguousarray(value, dtype=KINDS.get(kind, value.dtype))
