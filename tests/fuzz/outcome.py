"""What may come of a spec: findings that can be shown, or a graph, in bounded time and memory. Anything else is an error here."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import vlmgraph
from vlmgraph import api
from vlmgraph.diagnostics import Diagnostic, codes
from vlmgraph.diagnostics.render import FORMATS, render
from vlmgraph.ir.graph import Graph

SECONDS = 10.0
"""For one spec; they take some hundredths of a second."""
BYTES = 512 * 2**20
"""That one spec may add to the address space of this process."""


@contextmanager
def bounded() -> Iterator[None]:
    """A time limit that raises TimeoutError, a memory limit that raises MemoryError."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(source: Any, options: dict[str, Any]) -> tuple[list[Diagnostic], Graph | None]:
    """The findings about a spec, each of them sound, and its graph where there is no error among them."""
    with bounded():
        spec = vlmgraph.read_spec(source, **options)
        found = vlmgraph.check(spec)
        graph = None if any(d.severity == "error" for d in found) else api.elaborate(spec)
        if graph is not None:
            whole(graph)
        lines: dict[str, list[str]] = {}
        for diagnostic in found:
            sound(diagnostic, lines)
        for format in FORMATS:
            text = render(found, format)
            text.encode("utf-8")
            assert all(line.isprintable() for line in text.split("\n")), "something that a terminal would obey"
    return found, graph


def sound(diagnostic: Diagnostic, read: dict[str, list[str]]) -> None:
    """A known code, words, and places that lie inside their files."""
    assert diagnostic.code in codes.TITLES and diagnostic.message and diagnostic.severity in ("error", "warning")
    assert len(diagnostic.message) < 4000, "a message is for reading"
    for label in (diagnostic.primary, *diagnostic.secondary):
        if label is None:
            continue
        span = label.span
        lines = read[span.file] = read.get(span.file) or lines_of(span.file)
        assert 1 <= span.line <= span.end_line <= len(lines), span
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1, span
        assert 1 <= span.end_column <= len(lines[span.end_line - 1]) + 2, span
        assert (span.line, span.column) < (span.end_line, span.end_column), span


def whole(graph: Graph) -> None:
    """A graph without findings has a type for every value that is read, declared or given."""
    types = graph.types()
    for node in graph.nodes:
        assert all(source in types for source in node.sources()), node
    for name in graph.outputs:
        assert graph.resolve(name) in types, name
    for program in graph.programs.values():
        assert all(graph.resolve(value) in types for value in program.outputs), program


def lines_of(file: str) -> list[str]:
    with open(file, encoding="utf-8", errors="replace", newline="") as opened:
        return opened.read().removeprefix("\ufeff").split("\n")
