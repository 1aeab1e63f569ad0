"""The proof of a graph: onnxruntime beside eager, at every sample."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from .capture import Captured
from .resident import streamed
from .segments import Segmented

LIMITS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Relative error that an output may have."""


@dataclass
class Row:
    """One output at one sample."""

    graph: str
    output: str
    sizes: dict[str, int]
    shape: list[int]
    error: float
    cosine: float
    first: str = ""
    """Of a row over the limit: the first value of the graph that departs."""
    top1: float | None = None
    """Of logits with quantized weights: how often the largest is the same."""

    def json(self) -> dict[str, Any]:
        return asdict(self)


def opened(path: Path) -> Any:
    """A session on one CPU thread pool that warns of nothing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def verify(found: Captured, path: Path, limit: float, ranked: bool = False) -> list[Row]:
    """A row for every output and sample; the first that is over the limit says which node departs. `ranked`: with the choices of logits."""
    with named(found, "open"):
        session: Any = Segmented(path) if streamed(found.run.flat) else opened(path)
    taken = [i.name for i in session.get_inputs()]
    rows: list[Row] = []
    located = False
    for given, wanted in found.run.calls:
        feed = {name: as_array(x) for name, x in zip(found.run.names, given) if name in taken}
        sizes = sizes_of(found, given)
        with named(found, f"run at {sizes}"):
            got = session.run(None, feed)
        for name, ours, theirs in zip(found.run.gives, got, wanted):
            row = Row(found.name, name, sizes, list(theirs.shape), *distance(ours, theirs))
            if ranked and name == "logits":
                row.top1 = float((ours.argmax(-1) == theirs.float().numpy().argmax(-1)).mean())
            if row.error > limit and not located:
                from .depart import first_departing

                row.first, located = first_departing(found, given, limit, path.parent), True
            rows.append(row)
    return rows


@contextlib.contextmanager
def named(found: Captured, what: str) -> Iterator[None]:
    """What onnxruntime cannot do with a graph is a reason to refuse it; the message names the node."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines()[0]
        node = re.search(r"Name:'([^']*)'", said)
        place = f" at node {node[1]!r}" if node else ""
        text = f"{found.name} cannot be exported{place}: onnxruntime does not {what}"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, notes=(said[:500],))) from error


def as_array(x: torch.Tensor) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        import ml_dtypes

        return x.detach().float().numpy().astype(ml_dtypes.bfloat16)
    return np.ascontiguousarray(x.detach().cpu().numpy())


def distance(ours: np.ndarray, theirs: torch.Tensor) -> tuple[float, float]:
    """Relative error and cosine; another shape, or numbers that are none on one side only, are infinitely far."""
    if tuple(ours.shape) != tuple(theirs.shape):
        return float("inf"), 0.0
    a, b = np.asarray(ours, dtype=np.float64).ravel(), theirs.detach().double().numpy().ravel()
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf"), 0.0
    a, b = a[finite], b[finite]
    size = float(np.linalg.norm(b))
    gap = float(np.linalg.norm(a - b))
    if size == 0:
        return gap, 1.0 if gap == 0 else 0.0
    if not np.isfinite(gap):
        return float("inf"), 0.0
    return gap / size, float(a @ b / max(size * float(np.linalg.norm(a)), 1e-300))


def sizes_of(found: Captured, given: tuple[torch.Tensor, ...]) -> dict[str, int]:
    """The size of every named dim in a sample."""
    sizes: dict[str, int] = {}
    for value, x in zip(found.model.graph.inputs, given):
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                sizes.setdefault(str(dim.value), int(x.shape[axis]))
    return sizes


def table(rows: list[Row]) -> str:
    """Text for people: the worst row of every output, and over how many samples."""
    worst: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        worst.setdefault((row.graph, row.output), []).append(row)
    lines = [("graph", "output", "samples", "error", "cosine", "top-1" if any(r.top1 is not None for r in rows) else "")]
    for (graph, output), several in worst.items():
        top = max(several, key=lambda r: r.error)
        lines.append((graph, output, str(len(several)), f"{top.error:.1e}", f"{min(r.cosine for r in several):.7f}", agreed(several)))
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)


def agreed(rows: list[Row]) -> str:
    """How often the choices of logits are the same, where that was counted."""
    found = [r.top1 for r in rows if r.top1 is not None]
    return f"{sum(found) / len(found):.1%}" if found else ""
