"""Target `onnx`: every declared program as ONNX graphs, each proved against eager before the folder is there.

A program without a cache is one file of its name. One that decodes is cut into `vision_encoder`, `embed_tokens`, `merge` (features in the
place of their tokens, positions), `merge_step` where a step needs it, and `decoder_model_merged`, which takes and gives keys and values by
the names `past_key_values.N.key` and `present.N.key`. Where prompt and step feed a decoder differently (experts of images, media whose
keys are made once) it is two files, `decoder_model` and `decoder_with_past_model`. `manifest.json` says which is which. All share one
data file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

if TYPE_CHECKING:
    from ...lower.model import CompiledModel
    from .pieces import Decoding, Piece
    from .verify import Row


@dataclass
class Report:
    """What was written: a row for every output and sample, and the programs that were refused with the reason."""

    folder: Path
    rows: list[Row]
    refused: dict[str, Diagnostic] = field(default_factory=dict)
    graphs: list[str] = field(default_factory=list)
    alone: list[Row] = field(default_factory=list)
    """Of graphs with integers of several roles: the rows of each role by itself."""
    layers: dict[str, str] = field(default_factory=dict)
    """Graphs with repeated blocks that could not be captured once for all layers: which blocks, and why."""

    def __str__(self) -> str:
        from .verify import table

        notes = (f"{name} was captured layer by layer, {why}" for name, why in self.layers.items())
        return "\n".join((table([*self.rows, *self.alone]), *notes))


def export(
    model: CompiledModel,
    folder: Path,
    opset: int = 20,
    programs: list[str] | None = None,
    limit: float | None = None,
    optimize: bool = False,
    quantize: Sequence[str] = (),
    observe: Callable[[str], None] = lambda name: None,
) -> Report:
    """Write the graphs of `programs` (all that are declared) into `folder`, which should be a new one.

    `limit` is the relative error that is allowed, 1e-4 in float32. Raises DiagnosticError where a graph is over it, naming the first node
    that departs, and where no program at all can be written. A program that cannot be is in the report and in the manifest.
    With `optimize` graphs are rewritten for onnxruntime's fused operators, and held against eager like the others. `quantize` are types of
    weights by role (`optimize/kinds.py`); a graph that holds such weights has a limit of its own where none is given.
    """
    try:
        import onnx_ir  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        text = f"exporting to ONNX needs the package {error.name}, which is not installed"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix='pip install "vlmgraph[onnx]"')) from error
    from ...processor.core import build_processor
    from ...processor.model import model_processor
    from ...weights.load import LOCK, Origin
    from ...weights.lock import lock_text
    from ...weights.save import _companions
    from .manifest import manifest
    from .optimize.kinds import planned
    from .programs import decoding, single
    from .resident import resident
    from .verify import LIMITS
    from .writer import Writer

    model = model.eval()
    usual = LIMITS[str(model.dtype).removeprefix("torch.")] if limit is None else limit
    origin = getattr(model, "origin", None)
    place = origin.folder if isinstance(origin, Origin) else None
    tables = model.spec.data.get("processor")
    processor = model_processor(model.spec, model.graph, place) if tables else build_processor({}, model.graph.tokens, {})
    made: dict[str, Piece | Decoding] = {}
    refused: dict[str, Diagnostic] = {}
    write = Writer(folder, opset, optimize, planned(model, quantize) if quantize else None, usual, limit is not None, observe)
    with contextlib.closing(write.store), resident(model):
        decoders = 0
        for name in programs if programs is not None else list(model.graph.programs):
            try:
                if model.graph.programs[name].cache:
                    made[name] = decoding(model, processor, name, f"{name}." if decoders else "", write)
                    decoders += 1
                else:
                    made[name] = single(model, processor, name, write)
            except DiagnosticError as error:
                if {d.code for d in error.diagnostics} != {C.CANNOT_EXPORT}:
                    raise
                refused[name] = error.diagnostics[0]
    if not made:
        raise DiagnosticError(*refused.values())
    text = json.dumps(manifest(model, write.graphs, made, {name: d.message for name, d in refused.items()}, opset), indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    (folder / LOCK).write_text(lock_text(model.spec, model.graph), encoding="utf-8")
    if isinstance(origin, Origin):
        _companions(origin, folder)
    layers = {name: graph["layer_by_layer"] for name, graph in write.graphs.items() if "layer_by_layer" in graph}
    report = Report(folder, write.rows, refused, list(write.graphs), write.alone, layers)
    if far := [r for r in write.rows if not r.error <= write.allowed[r.graph]]:
        raise DiagnosticError(*departures(far, write.allowed, report))
    return report


def departures(far: list[Row], allowed: Mapping[str, float], report: Report) -> list[Diagnostic]:
    """A finding for each graph that is over the limit."""
    from .verify import table

    found = []
    for graph in dict.fromkeys(r.graph for r in far):
        mine = [r for r in far if r.graph == graph]
        worst = max(mine, key=lambda r: r.error)
        first = next((r.first for r in mine if r.first), "")
        text = f"{graph}: {worst.output} is {worst.error:.1e} away from eager at {worst.sizes}, allowed are {allowed[graph]:.0e}"
        notes = (*([f"the first value that departs: {first}"] if first else []), table(report.rows))
        found.append(Diagnostic(C.EXPORT_DEPARTS, text, notes=notes))
    return found


__all__ = ["Report", "export"]
