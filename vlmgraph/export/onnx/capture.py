"""A piece becomes an ONNX graph; no declared symbolic dim may have become a number."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .axes import Axes, name_dims, open_axes
from .samples import Run
from .trace import trace

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass
class Captured:
    """A graph with the piece it is of, and the exported program that it was made from."""

    run: Run
    model: ir.Model
    exported: Any
    layers: str = ""
    """Which repeated blocks were captured layer by layer, not once for all, and why."""

    @property
    def name(self) -> str:
        return self.run.piece.name

    def renamed(self, run: Run) -> Captured:
        """The same graph for a piece that differs in names alone."""
        for value, name in zip((*self.model.graph.inputs, *self.model.graph.outputs), (*run.names, *run.gives)):
            value.name = name
        return replace(self, run=run)


def capture(run: Run, opset: int = OPSET) -> Captured:
    """Trace a piece with its largest sample, all declared symbolic dims open.

    Raises DiagnosticError where the piece cannot be traced, or where a dim was frozen.
    """
    given = sample(run)
    axes = Axes(run)
    try:
        model, program, layers = trace(run.flat, given, open_axes(axes), (run.names, run.gives), opset, axes.together)
    except Exception as error:
        raise refused(run, error) from error
    found = Captured(run, model, program, layers)
    if drawn := next((n for n in model.graph if n.op_type in RANDOM), None):
        text = f"{found.name} draws random numbers ({drawn.op_type}, node {drawn.name}), so nothing can be held against eager"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix="give what is drawn as an input"))
    name_dims(found.model, axes)
    return found


def sample(run: Run) -> tuple[torch.Tensor, ...]:
    """The first sample in which nothing has the size 0 or 1, which tracing takes for fixed; else the one with the fewest."""
    return min((given for given, _ in run.calls), key=lambda given: sum(s < 2 for x in given for s in x.shape))


def refused(run: Run, error: Exception) -> DiagnosticError:
    """What could not be traced, by the component it stands in."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    where = component(run, cause)
    place = f" at node {where!r}" if where else ""
    text = f"{run.piece.name} cannot be exported{place}: {lines[0][:300]}"
    return DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, notes=(*line_of(cause), *lines[1:3])))


def line_of(error: BaseException) -> tuple[str, ...]:
    """The last line that ran outside of torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and not f.filename.startswith("<")]
    return (f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}",) if frames else ()


def component(run: Run, error: BaseException) -> str:
    """The node whose module was running: the innermost module of the traceback that a node of the piece calls."""
    calls = {str(n.target): n.name for n in run.flat.module.graph.nodes if n.op == "call_module"}  # type: ignore[union-attr]
    modules = {id(run.flat.module.get_submodule(path)): name for path, name in calls.items()}
    trace, found = error.__traceback__, ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = modules.get(id(owner), found)
        trace = trace.tb_next
    return found
