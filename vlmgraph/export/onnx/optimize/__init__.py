"""Graphs rewritten for onnxruntime's fused operators. Each rewrite is a file; what a rewrite does not know stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from .alone import alone
from .edit import Edit
from .grouped import grouped
from .kinds import LIMITS
from .lengths import Call, shared
from .norms import norms, skips
from .quantize import Held, Plan, quantize

if TYPE_CHECKING:
    from ..capture import Captured
    from ..samples import Run
    from ..verify import Row

REWRITES = (norms, grouped, skips)
NEEDED = "1.32"
"""The onnxruntime whose operators are written: grouped attention that takes several new tokens of several texts behind past ones."""


@dataclass(frozen=True)
class Optimized:
    """How often each operator was put in, and the input [B, past + new] where keys and values may be written in place."""

    fused: dict[str, int]
    counts: ir.Value | None = None

    def json(self) -> dict[str, Any]:
        return {"fused": self.fused, "onnxruntime": f">={NEEDED}", **({"shared": str(self.counts.name)} if self.counts is not None else {})}


def optimize(model: ir.Model, calls: Sequence[Call] = (), grows: Sequence[tuple[str, str]] = ()) -> Optimized:
    """Rewrite a graph in place; its inputs and outputs keep their names and meaning.

    `calls` are the shapes that entered in eager, `grows` the names of past and present of caches that every token adds to.
    """
    edit = Edit(model)
    for rewrite in REWRITES:
        rewrite(edit)
    counts = shared(edit, calls, grows)
    edit.merge()
    return Optimized({name: count for name, count in edit.done.items() if count}, counts)


def optimized(run: Run, model: ir.Model) -> Optimized:
    """The graph of a piece, rewritten with what entered the piece in eager."""
    calls = [{name: tuple(x.shape) for name, x in zip(run.names, given)} for given, _ in run.calls]
    grows = [(run.slot_name(s, "past_key_values"), run.slot_name(s, "present")) for s in run.slots if s.grows and run.piece.past]
    return optimize(model, calls, grows)


def recent() -> None:
    """Raises DiagnosticError where the onnxruntime that is installed cannot prove what is written."""
    import onnxruntime

    has = onnxruntime.__version__
    if [int(n) for n in has.split(".")[:2]] < [int(n) for n in NEEDED.split(".")]:
        text = f"optimized graphs need onnxruntime {NEEDED}, {has} is installed"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix=f'pip install "onnxruntime>={NEEDED}", or leave --optimize out'))


@dataclass(frozen=True)
class Changed:
    """What became of a captured graph before it was written, and the error that its outputs may have."""

    optimized: Optimized | None
    held: dict[str, Held]
    limit: float
    alone: dict[str, list[Row]]
    """Of a graph with integers of several roles: the rows of each role by itself."""

    @classmethod
    def of(cls, found: Captured, optimize: bool, plan: Plan | None, limit: float, own: bool) -> Changed:
        """Optimized and quantized as asked for. With `own` a graph that holds integers has the limit of their width."""
        if optimize:
            recent()
        made = optimized(found.run, found.model) if optimize else None
        parts = alone(found, plan) if plan is not None else {}
        held = quantize(found.model, plan) if plan is not None else {}
        bits = min((plan.kinds[role].bits for role in held), default=0) if plan is not None else 0
        return cls(made, held, LIMITS[bits] if bits and own else limit, parts)

    def json(self) -> dict[str, Any]:
        """For the manifest."""
        said = self.optimized.json() if self.optimized is not None else {}
        held = {role: h.json() | {"outputs": worst(self.alone.get(role, []))} for role, h in self.held.items()}
        return said | ({"quantized": held, "limit": self.limit} if held else {})


def worst(rows: Sequence[Row]) -> dict[str, float]:
    """The largest error of each output."""
    return {output: max(r.error for r in rows if r.output == output) for output in dict.fromkeys(r.output for r in rows)}


__all__ = ["Changed", "Optimized", "optimize", "optimized"]
