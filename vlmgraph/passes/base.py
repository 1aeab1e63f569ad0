"""What a pass is: a frozen dataclass from graph to graph, with what it requires and what it ensures."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..diagnostics import Collector, Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import Graph


@dataclass(frozen=True)
class Pass:
    """Fields of a pass are its options in the text of a pipeline: `infer[batches=true],expect`."""

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    def run(self, graph: Graph, found: Collector) -> Graph:
        """The changed graph; problems of the user's making go to `found`."""
        raise AssertionError(f"{type(self).__name__} has no run")


class PipelineError(DiagnosticError):
    """A pipeline that cannot be read, names an unknown pass, or puts one before what it requires."""


class BrokenGraph(AssertionError):
    """A pass has made a graph that does not hold together: a fault of the pass, never of the spec."""

    def __init__(self, maker: str, problems: Sequence[Diagnostic]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"after {maker}: {p.message}" for p in problems))


def verifying() -> bool:
    """Whether pipelines verify by themselves: where VLMGRAPH_VERIFY is set, as in the tests."""
    return os.environ.get("VLMGRAPH_VERIFY", "") not in ("", "0")


@dataclass
class Pipeline:
    """Passes in order. `observe` is called after each with its name, the graph and the seconds it took.

    With `verify` the verifier looks at the graph before the first pass and after each one, together with the facts ensured so far;
    it stops looking once the spec has errors, for then a pass may leave its work half done.
    """

    passes: Sequence[Pass]
    observe: Callable[[str, Graph, float], None] | None = None
    facts: set[str] = field(default_factory=set)
    verify: bool = field(default_factory=verifying)

    def run(self, graph: Graph, found: Collector) -> Graph:
        """The graph after all passes. Raises PipelineError before the first pass for an order that cannot be."""
        facts = set(self.facts)
        for step in self.passes:
            lacking = step.requires - facts
            if lacking:
                raise bad(f"pass {step.name!r} requires {', '.join(sorted(lacking))}: put a pass that ensures it before")
            facts |= step.ensures
        self.check("elaboration", graph, found)
        for step in self.passes:
            start = time.perf_counter()
            graph = step.run(graph, found)
            self.facts |= step.ensures
            taken = time.perf_counter() - start
            self.check(f"pass {step.name!r}", graph, found)
            if self.observe:
                self.observe(step.name, graph, taken)
        return graph

    def check(self, maker: str, graph: Graph, found: Collector) -> None:
        if not self.verify or found.failed:
            return
        from ..ir.verify import verify

        problems = verify(graph, sorted(self.facts))
        if problems:
            raise BrokenGraph(maker, problems)


def bad(message: str, notes: tuple[str, ...] = (), fix: str | None = None) -> PipelineError:
    return PipelineError(Diagnostic(C.BAD_PIPELINE, message, notes=notes, fix=fix))


_STEP = re.compile(r"\s*([a-z][\w-]*)\s*(?:\[([^\]]*)\])?\s*(?:,|$)")


def parse_pipeline(text: str) -> list[Pass]:
    """`"carry,infer[batches=true],expect"` → passes, by the names under entry-point group `vlmgraph.passes`. Raises PipelineError."""
    steps: list[Pass] = []
    at = 0
    while text[at:].strip():
        match = _STEP.match(text, at)
        if match is None:
            raise bad(f"cannot read the pipeline {text!r} at {text[at:].strip()[:40]!r}", fix="write names of passes, `carry,infer,expect`")
        steps.append(parse_step(match[1], match[2] or ""))
        at = match.end()
    return steps


def parse_step(name: str, options: str) -> Pass:
    """One pass with its options, `batches=true`. Raises PipelineError."""
    from ..plugins import PluginError, registry

    passes = registry("vlmgraph.passes")
    try:
        cls = passes.load(name)
    except PluginError as error:
        what = f"there is no pass {name!r}" if error.reason == "unknown" else f"the plugin of pass {name!r}: {error.reason}, {error.detail}"
        fix = f"did you mean {error.near[0]!r}?" if error.near else None
        raise bad(what, (f"passes: {', '.join(passes.names())}",), fix) from error
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise bad(f"{name!r} is {cls!r}, not a pass")
    known = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for option in filter(None, (part.strip() for part in options.split(","))):
        key, equals, value = (part.strip() for part in option.partition("="))
        if key not in known:
            raise bad(f"pass {name!r} has no option {key!r}", (f"options: {', '.join(known) or 'none'}",))
        values[key] = literal(name, key, value if equals else "true", known[key].default)
    return cls(**values)


def literal(name: str, key: str, text: str, default: Any) -> Any:
    """An option's value of the kind of its default."""
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
    elif isinstance(default, str):
        return text
    elif isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            pass
    raise bad(f"pass {name!r}: {key} is like {default!r}, not {text!r}")


def print_pipeline(passes: Sequence[Pass]) -> str:
    """The text that `parse_pipeline` reads back."""
    shown = []
    for step in passes:
        changed = {f.name: getattr(step, f.name) for f in dataclasses.fields(step) if getattr(step, f.name) != f.default}
        options = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changed.items())
        shown.append(f"{step.name}[{options}]" if options else step.name)
    return ",".join(shown)
