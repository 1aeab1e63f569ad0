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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

if TYPE_CHECKING:
    from ...lower.model import CompiledModel
    from .pieces import Decoding, Piece
    from .samples import Run, Samples
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

    def __str__(self) -> str:
        from .verify import table

        return table([*self.rows, *self.alone])


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
    from .capture import Captured, capture
    from .manifest import described, manifest
    from .optimize import Changed
    from .optimize.kinds import planned
    from .resident import resident
    from .store import Store
    from .verify import LIMITS, verify

    usual = LIMITS[str(model.dtype).removeprefix("torch.")] if limit is None else limit
    model = model.eval()
    plan = planned(model, quantize) if quantize else None
    tables = model.spec.data.get("processor")
    origin = getattr(model, "origin", None)
    place = origin.folder if isinstance(origin, Origin) else None
    processor = model_processor(model.spec, model.graph, place) if tables else build_processor({}, model.graph.tokens, {})
    made: dict[str, Piece | Decoding] = {}
    graphs: dict[str, Any] = {}
    known: dict[object, Captured] = {}
    changed: dict[object, Changed] = {}
    refused: dict[str, Diagnostic] = {}
    rows: list[Row] = []
    alone: list[Row] = []
    allowed: dict[str, float] = {}
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)

    def written(run: Run) -> None:
        observe(run.piece.name)
        key = run.piece.key
        found = known[key].renamed(run) if key in known else capture(run, opset)
        if key not in known:
            changed[key] = Changed.of(found, optimize, plan, usual if limit is None else limit, limit is None)
        known[key] = found
        path = folder / f"{run.piece.name}.onnx"
        store.write(found.model, path)
        try:
            made = verify(found, path, changed[key].limit, bool(changed[key].held))
        except DiagnosticError:
            path.unlink()
            raise
        rows.extend(made)
        alone.extend(r for part in changed[key].alone.values() for r in part)
        graphs[run.piece.name] = described(found, made) | changed[key].json()
        allowed[run.piece.name] = changed[key].limit

    there = contextlib.ExitStack()
    there.enter_context(resident(model))
    try:
        decoders = 0
        for name in programs if programs is not None else list(model.graph.programs):
            try:
                if model.graph.programs[name].cache:
                    made[name] = decoding(model, processor, name, f"{name}." if decoders else "", written)
                    decoders += 1
                else:
                    made[name] = single(model, processor, name, written)
            except DiagnosticError as error:
                if {d.code for d in error.diagnostics} != {C.CANNOT_EXPORT}:
                    raise
                refused[name] = error.diagnostics[0]
    finally:
        there.close()
        store.close()
    if not made:
        raise DiagnosticError(*refused.values())
    said = {name: f"{d.message}" for name, d in refused.items()}
    text = json.dumps(manifest(model, graphs, made, said, opset), indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    (folder / LOCK).write_text(lock_text(model.spec, model.graph), encoding="utf-8")
    if isinstance(origin, Origin):
        _companions(origin, folder)
    report = Report(folder, rows, refused, list(graphs), alone)
    if far := [r for r in rows if not r.error <= allowed[r.graph]]:
        raise DiagnosticError(*departures(far, allowed, report))
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


def single(model: Any, processor: Any, name: str, written: Callable[[Run], None]) -> Piece:
    """A program without a cache: one graph."""
    from .pieces import whole
    from .samples import Samples, run_whole

    samples = Samples(model, processor, name)
    piece = whole(model.programs[name].graph(frozenset(samples.inputs[0])))
    written(run_whole(model, piece, samples))
    return piece


def decoding(model: Any, processor: Any, name: str, prefix: str, written: Callable[[Run], None]) -> Decoding:
    """A program with a cache: its pieces, and others for texts without media where a step does not compute what such a prompt does."""
    from .samples import Samples
    from .widen import REFUSALS

    samples = Samples(model, processor, name)
    made = parts(model, samples, prefix, written)
    try:
        alone = Samples(model, processor, name, media=False)
    except REFUSALS:  # no text without media
        return made
    if alone.inputs[0].keys() == samples.inputs[0].keys():
        return made
    text = pieces_of(model, alone, f"{prefix}text.", made.pieces)
    if made.serves(list(alone.inputs[0])) and {p.name for p in text.prompt} <= {p.name for p in made.step}:
        return made
    return replace(made, text=parts(model, alone, f"{prefix}text.", written, made.pieces))


def parts(model: Any, samples: Samples, prefix: str, written: Callable[[Run], None], there: tuple[Piece, ...] = ()) -> Decoding:
    """The pieces that samples go through, written unless they are `there` already. The decoder is one graph for prompt and steps, unless
    media or an encoder fill its cache once."""
    from .samples import run_decoding

    made = pieces_of(model, samples, prefix, there)
    runs = run_decoding(model, made, samples)
    if any(s.once for r in runs for s in r.slots) and len(made.pieces) < len(made.prompt) + len(made.step):
        made = pieces_of(model, samples, prefix, there, merged=False)
        runs = run_decoding(model, made, samples)
    for run in runs:
        if run.piece.name not in {p.name for p in there}:
            written(run)
    return made


def pieces_of(model: Any, samples: Samples, prefix: str, there: tuple[Piece, ...], merged: bool = True) -> Decoding:
    from .pieces import cut
    from .samples import stepping

    program, ids = model.programs[samples.name], samples.start()
    prompt = program.graph(frozenset(samples.inputs[0]))
    step = program.graph(stepping(model.graph, samples.inputs[0], prompt, ids), True)
    return cut(model.graph, prompt, step, prefix, merged).sharing(there)


__all__ = ["Report", "export"]
