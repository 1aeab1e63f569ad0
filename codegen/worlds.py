"""The combinations of a program's optional inputs, and the shortest test that tells some of them from the others."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vlmgraph.ir.graph import Graph
from vlmgraph.ir.types import Type
from vlmgraph.lower.program import identifier
from vlmgraph.passes.slice import MissingInput, ProgramGraph, slice_program

from .cached import step_inputs
from .trees import name, not_none

MOST = 9
"""Optional inputs of one program whose combinations are gone through one by one."""

World = frozenset[str]
"""The optional inputs that are given."""


class TooManyInputs(Exception):
    """A program with more optional inputs than can be written as one method."""


class Worlds:
    """The slices of one program for every combination of its optional inputs."""

    def __init__(self, graph: Graph, program: str, step: bool = False) -> None:
        self.graph, self.program = graph, program
        relevant = step_inputs(graph, program) if step else relevant_inputs(graph, program)
        fixed = frozenset(k for k, t in relevant.items() if not t.optional)
        free = [k for k, t in relevant.items() if t.optional]
        if len(free) > MOST:
            raise TooManyInputs(f"program {program!r} has {len(free)} optional inputs: {', '.join(free)}")
        self.slices: dict[World, ProgramGraph] = {}
        for count in range(len(free), -1, -1):
            for chosen in itertools.combinations(free, count):
                try:
                    self.slices[frozenset(chosen)] = with_carried(slice_program(graph, program, fixed | set(chosen), step))
                except MissingInput:
                    continue
        self.all = frozenset(self.slices)
        always = frozenset.intersection(*self.all) if self.all else frozenset()
        used = {name for s in self.slices.values() for name in s.inputs}
        self.required = {k: t for k, t in relevant.items() if k in used and (k in fixed or k in always)}
        self.optional = {k: t for k, t in relevant.items() if k in used and k not in self.required}

    def where(self, test: Callable[[ProgramGraph], bool]) -> frozenset[World]:
        return frozenset(w for w, s in self.slices.items() if test(s))

    def condition(self, worlds: frozenset[World]) -> Any:
        """The shortest test found that holds in exactly these worlds; None where that is all of them."""
        if worlds == self.all:
            return None
        terms = self.terms(worlds)
        tests = [_all_of([not_none(name(identifier(k)), given) for k, given in term]) for term in terms]
        return tests[0] if len(tests) == 1 else ast.BoolOp(op=ast.Or(), values=tests)

    def terms(self, worlds: frozenset[World]) -> list[list[tuple[str, bool]]]:
        left, found = set(worlds), []
        for world in sorted(worlds, key=lambda w: (len(w), sorted(w))):
            if world not in left:
                continue
            term = [(k, k in world) for k in self.optional]
            for literal in sorted(term, key=lambda t: t[1]):  # an absence is dropped before a presence
                shorter = [t for t in term if t != literal]
                if self.holding(shorter) <= worlds:
                    term = shorter
            found.append(term)
            left -= self.holding(term)
        return found

    def holding(self, term: list[tuple[str, bool]]) -> frozenset[World]:
        return frozenset(w for w in self.all if all((k in w) == given for k, given in term))


def with_carried(program: ProgramGraph) -> ProgramGraph:
    """What the next step receives among the outputs, as `carry.NAME`."""
    return replace(program, outputs={**program.outputs, **{f"carry.{k}": v for k, v in program.carry.items()}})


def _all_of(tests: list[Any]) -> Any:
    return tests[0] if len(tests) == 1 else ast.BoolOp(op=ast.And(), values=tests)


def relevant_inputs(graph: Graph, program: str) -> dict[str, Type]:
    """Inputs, and values that the program is cut at, from which its outputs can be reached."""
    declared, types = graph.programs[program], graph.types()
    cuts = {graph.resolve(c): c for c in declared.inputs or () if c not in graph.inputs}
    producers = graph.producers()
    found: set[str] = set()
    seen: set[str] = set()
    todo = [graph.resolve(v) for v in declared.outputs]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in cuts:
            found.add(cuts[value])
        elif value in graph.inputs:
            found.add(value)
        elif value in producers:
            todo += [graph.resolve(s) for s in producers[value].sources()]
    inputs = {k: t for k, t in graph.inputs.items() if k in found and k not in declared.without}
    return inputs | {c: types[v] for v, c in cuts.items() if c in found}
