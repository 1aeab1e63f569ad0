"""Optimisation profiles: the shapes of every input at its smallest, usual and largest.

TensorRT checks a network at these three points, so each point has to be a call that can happen: all inputs of one point are of the same
sizes. Of a decoder that makes two profiles. A prompt has no past, a step has one new token, and past and new tokens together are never
more than the longest text:

    prompt   past = 0                    new = 1 .. length     total = new
    step     past = 1 .. length - 1      new = 1               total = past + 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.dims import Dim, Symbol
from .graphs import PAST, TOTAL, Entry, Planned
from .limits import MAX, MIN, OPT, Range
from .sizes import Sizes

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Profile:
    """Of one file in one phase: the number of every dim by its name, and the shapes of every input."""

    phase: str
    dims: Mapping[str, Range]
    shapes: Mapping[str, Shapes]

    def json(self) -> dict[str, Any]:
        shapes = {k: dict(zip(("min", "opt", "max"), map(list, v))) for k, v in self.shapes.items()}
        return {"phase": self.phase, "dims": {k: list(v) for k, v in self.dims.items()}, "inputs": shapes}


def profiles_of(graph: Planned, sizes: Sizes) -> list[Profile]:
    """One profile for each phase that the file runs in."""
    return [profile(graph, sizes, phase) for phase in graph.phases]


def profile(graph: Planned, sizes: Sizes, phase: str) -> Profile:
    points = [tokens(graph, sizes, phase, at) for at in (MIN, OPT, MAX)]
    names = sorted({s.name for e in graph.inputs for d in e.dims for s in d.symbols()})
    dims: dict[str, Range] = {}
    for name in names:
        low, usual, high = (p[name] if name in p else sizes.value(Dim.of(Symbol(name)), at) for at, p in enumerate(points))
        dims[name] = (low, usual, high)
    shapes = {e.name: shaped(e, sizes, points) for e in graph.inputs}
    return Profile(phase, dims, shapes)


def tokens(graph: Planned, sizes: Sizes, phase: str, at: int) -> dict[str, int]:
    """The numbers of the dims that count tokens: new, past, and both together."""
    found = {name: sizes.tokens(name, at, graph.pictures) for name in sizes.visual}
    if not graph.length or phase == "call":
        return found
    if phase == "prompt":
        new = found[graph.length]
        return found | {PAST: 0, TOTAL: new}
    longest = sizes.tokens(graph.length, MAX, True)
    past = (1, min(sizes.tokens(graph.length, OPT, True), longest - 1), longest - 1)[at]
    return found | {graph.length: 1, PAST: past, TOTAL: past + 1}


def shaped(entry: Entry, sizes: Sizes, points: list[dict[str, int]]) -> Shapes:
    rows = [tuple(sizes.value(d, at, points[at]) for d in entry.dims) for at in (MIN, OPT, MAX)]
    return (rows[MIN], rows[OPT], rows[MAX])
