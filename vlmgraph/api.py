"""The Python API. torch is imported only by what needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .diagnostics import Collector, Diagnostic, DiagnosticError
from .elaborate import elaborate as _wire
from .ir.graph import Graph
from .passes.base import Pipeline, parse_pipeline
from .spec import Spec, read_spec

if TYPE_CHECKING:
    from .lower.fast.lowbit import Choice
    from .lower.model import CompiledModel

PIPELINE = "carry,infer,objectives,programs,expect"

SpecLike = Spec | str | Path | Mapping[str, Any]


def as_spec(source: SpecLike) -> Spec:
    return source if isinstance(source, Spec) else read_spec(source if not isinstance(source, Mapping) else dict(source))


def elaborate(source: SpecLike, pipeline: str = PIPELINE, observe: Callable[[str, Graph, float], None] | None = None) -> Graph:
    """The typed graph of a spec. Raises DiagnosticError with every finding."""
    spec = as_spec(source)
    graph, found = _analyse(spec, pipeline, observe)
    found.stop()
    assert graph is not None
    return graph


def check(source: SpecLike) -> list[Diagnostic]:
    """Every finding about a spec, in the order of their places. Never raises on a bad spec."""
    spec = as_spec(source)
    graph, found = _analyse(spec, PIPELINE)
    if graph is not None and spec.data.get("processor"):
        from .processor.check import spec_faults

        for fault in spec_faults(spec, graph, whole=not found.failed):
            found.add(fault)
    return sorted(found.found, key=lambda d: (d.severity != "error", d.primary is None, d.primary.span if d.primary else ()))


def _analyse(spec: Spec, pipeline: str, observe: Callable[[str, Graph, float], None] | None = None) -> tuple[Graph | None, Collector]:
    found = Collector(list(spec.diagnostics))
    graph = _wire(spec, found)
    if graph is not None:
        graph = Pipeline(parse_pipeline(pipeline), observe).run(graph, found)
    return graph, found


def objective_graph(source: SpecLike, name: str) -> Graph:
    """The graph with an objective's nodes and rebound ports in place, typed. Raises DiagnosticError."""
    from .passes.objectives import objective_graph as typed

    found = Collector()
    graph = typed(elaborate(source), name, found)
    found.stop()
    return graph


def compile(
    source: SpecLike | Graph,
    device: str = "cpu",
    dtype: Any = "float32",
    mode: str = "eager",
    seed: int | None = 0,
    quantize: Choice | None = None,
) -> CompiledModel:
    """Build a model: on `device` with each component's own initialisation, or on `"meta"` without storage.

    `mode="compile"` is for inference: each kind of repeated block goes through torch.compile once, maps of one input are one product, and
    `model.compiled_regions` counts compilations. `quantize="int8"` or `"int4"` makes the language model's weights low-bit, `["int8",
    "encoder=int8"]` those of other roles too (`CompiledModel.quantize`). Raises DiagnosticError when the spec has errors.
    """
    import torch

    from .lower.model import CompiledModel

    if mode not in ("eager", "compile"):
        raise ValueError(f"mode is 'eager' or 'compile', not {mode!r}")
    spec = as_spec(source)  # type: ignore[arg-type]
    graph = elaborate(spec)
    if seed is not None and device != "meta":
        torch.manual_seed(seed)
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = CompiledModel(spec, graph, device, kind, mode)
    if quantize:
        model.quantize(quantize)
    return model


def load(path: str | Path, device: str = "cpu", dtype: Any = None, mode: str = "eager", quantize: Choice | None = None) -> CompiledModel:
    """Open a spec (fresh weights), a compiled folder, or a published checkpoint folder (config.json + safetensors).

    `quantize` as in `compile`, of the weights as they were loaded.
    """
    from .weights.load import load_model

    model = load_model(path, device, dtype, mode)
    if quantize:
        model.quantize(quantize)
    return model


def export(model: CompiledModel, target: str, folder: str | Path, **options: Any) -> Any:
    """Write a model for a target found under entry-point group `vlmgraph.targets`. Raises DiagnosticError for an unknown one, and for
    a quantised or a compiled model."""
    from .diagnostics import codes as C

    write = find_target(target)
    if model.mode != "eager":
        text = f"{model.graph.name} is compiled for this process, and {target} takes the modules as they are built"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix='compile or load it with mode="eager"'))
    if model.quantization is not None:
        text = f"{model.graph.name} is quantised for torch, whose codes {target} does not take"
        raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, text, fix="export it without quantize; a target has its own options for that"))
    return write(model, Path(folder), **options)


def find_target(name: str) -> Callable[..., Any]:
    """What writes for a target. Raises DiagnosticError where nobody provides it."""
    from .diagnostics import codes as C
    from .plugins import PluginError, registry

    targets = registry("vlmgraph.targets")
    try:
        found: Callable[..., Any] = targets.load(name)
    except PluginError as error:
        reason = f"there is no target {name!r}" if error.reason == "unknown" else f"target {error}"
        fix = f"did you mean {error.near[0]!r}?" if error.near else None
        note = f"targets: {', '.join(targets.names()) or 'none is installed'}"
        raise DiagnosticError(Diagnostic(C.UNKNOWN_TARGET, reason, notes=(note,), fix=fix)) from error
    return found


__all__ = ["check", "compile", "elaborate", "export", "load", "read_spec"]
