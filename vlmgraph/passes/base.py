"""What a pass is: a frozen dataclass from graph to graph, with what it requires and what it ensures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..diagnostics import Collector
from ..ir.graph import Graph


@dataclass(frozen=True)
class Pass:
    """Fields of a pass are its options in the text of a pipeline: `infer,expect`."""

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    def run(self, graph: Graph, found: Collector) -> Graph:
        """The changed graph; problems of the user's making go to `found`."""
        raise AssertionError(f"{type(self).__name__} has no run")


class PipelineError(ValueError):
    """A pipeline that names an unknown pass or puts one before what it requires."""


@dataclass
class Pipeline:
    """Passes in order. `observe` is called after each with its name, the graph and the seconds it took."""

    passes: Sequence[Pass]
    observe: Callable[[str, Graph, float], None] | None = None
    facts: set[str] = field(default_factory=set)

    def run(self, graph: Graph, found: Collector) -> Graph:
        for step in self.passes:
            lacking = step.requires - self.facts
            if lacking:
                raise PipelineError(f"pass {step.name!r} requires {', '.join(sorted(lacking))}: put a pass that ensures it before")
            start = time.perf_counter()
            graph = step.run(graph, found)
            self.facts |= step.ensures
            if self.observe:
                self.observe(step.name, graph, time.perf_counter() - start)
        return graph


def parse_pipeline(text: str) -> list[Pass]:
    """`"carry,infer,expect"` → passes, by the names under entry-point group `vlmgraph.passes`."""
    from ..plugins import PluginError, registry

    steps: list[Pass] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            steps.append(registry("vlmgraph.passes").load(name)())
        except PluginError as error:
            raise PipelineError(f"{error}; passes: {', '.join(registry('vlmgraph.passes').names())}") from error
    return steps
