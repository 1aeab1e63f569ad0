"""The graphs of a folder, one after another: captured, rewritten as asked for, stored, and held against eager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...diagnostics import DiagnosticError
from .capture import Captured, capture
from .manifest import described
from .optimize import Changed
from .optimize.quantize import Plan
from .samples import Run
from .store import Store
from .verify import Row, verify


class Writer:
    """Called with the run of each piece. A piece that computes what another does is captured once.

    `usual` is the error that outputs may have; a graph that holds integers has a wider one, unless the limit is `given`.
    """

    def __init__(
        self, folder: Path, opset: int, optimize: bool, plan: Plan | None, usual: float, given: bool, observe: Callable[[str], None]
    ) -> None:
        self.folder, self.opset, self.observe = folder, opset, observe
        self.optimize, self.plan, self.usual, self.given = optimize, plan, usual, given
        self.known: dict[object, tuple[Captured, Changed]] = {}
        self.rows: list[Row] = []
        self.alone: list[Row] = []
        """Of graphs with integers of several roles: each role by itself."""
        self.graphs: dict[str, dict[str, Any]] = {}
        """For the manifest."""
        self.allowed: dict[str, float] = {}
        """The limit of each graph."""
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(folder)

    def __call__(self, run: Run) -> None:
        """Write a graph and prove it. Raises DiagnosticError where it cannot be captured or opened; then no file of it is left."""
        name, key = run.piece.name, run.piece.key
        self.observe(name)
        if key in self.known:
            found, changed = self.known[key]
            found = found.renamed(run)
        else:
            found = capture(run, self.opset)
            changed = Changed.of(found, self.optimize, self.plan, self.usual, not self.given)
        self.known[key] = found, changed
        path = self.folder / f"{name}.onnx"
        self.store.write(found.model, path)
        try:
            made = verify(found, path, changed.limit, bool(changed.held))
        except DiagnosticError:
            path.unlink()
            raise
        self.rows += made
        self.alone += [row for part in changed.alone.values() for row in part]
        self.graphs[name] = described(found, made) | changed.json()
        self.allowed[name] = changed.limit
