"""The build plan: what `plan.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.roles import ROLES, Choice, by_role
from ..onnx.widen import REFUSALS
from .commands import provider_options, trtexec
from .graphs import Planned, drawn, graphs_of
from .limits import Limits
from .profiles import Profile, profiles_of
from .sizes import Sizes, sizes_of

if TYPE_CHECKING:
    from ...lower.model import CompiledModel
    from ...processor import Processor

FORMAT = 1
PRECISIONS = ("float32", "float16", "bfloat16")
RELATIONS = (
    "dims of one name are one number in all inputs of a graph",
    "prompt: past = 0, total = new",
    "step: new = 1, total = past + 1, total <= the most tokens of a text",
    "tokens of a text = tokens of its pictures + text beside them",
)


@dataclass(frozen=True)
class Options:
    """How engines are built. `precision` is the type of matrix products and convolutions by role; what it leaves out is as in the graph."""

    precision: Mapping[str, str]
    workspace_bytes: int = 4 << 30
    level: int = 3
    tf32: bool = False

    def flags(self) -> dict[str, Any]:
        return {
            "network": ["STRONGLY_TYPED"],
            "tf32": self.tf32,
            "builder_optimization_level": self.level,
            "workspace_bytes": self.workspace_bytes,
            "timing_cache": "timing.cache",
        }


@dataclass(frozen=True)
class Plan:
    """The files to build, with their profiles, and programs that have none with the reason."""

    model: str
    dtype: str
    limits: Limits
    options: Options
    graphs: Mapping[str, tuple[Planned, tuple[Profile, ...]]]
    refused: Mapping[str, Diagnostic]

    def json(self, operators: Mapping[str, Any] | None = None) -> dict[str, Any]:
        flags = self.options.flags()
        return {
            "format": FORMAT,
            "model": self.model,
            "tensorrt": ">=10",
            "dtype": self.dtype,
            "precision": dict(self.options.precision),
            "limits": self.limits.json(),
            "relations": list(RELATIONS),
            "flags": flags,
            "graphs": {name: self.described(g, p, flags) for name, (g, p) in self.graphs.items()},
            "refused": {name: d.message for name, d in self.refused.items()},
            **({"operators": dict(operators)} if operators is not None else {}),
        }

    def described(self, graph: Planned, profiles: Sequence[Profile], flags: dict[str, Any]) -> dict[str, Any]:
        onnx, engine = f"{graph.name}.onnx", f"{graph.name}.engine"
        return {
            "onnx": onnx,
            "engine": engine,
            "program": graph.program,
            "roles": {role: self.options.precision.get(role, self.dtype) for role in graph.roles},
            "inputs": [e.json() for e in graph.inputs],
            "profiles": [p.json() for p in profiles],
            "trtexec": trtexec(onnx, engine, profiles, flags),
            "onnxruntime": provider_options(graph.name, profiles, flags),
        }

    def script(self) -> str:
        """A line of trtexec for each file."""
        flags = self.options.flags()
        lines = [trtexec(f"{n}.onnx", f"{n}.engine", p, flags) for n, (_, p) in self.graphs.items()]
        return (
            "\n".join(["#!/bin/sh", "# Builds the engines of this folder one after the other.", 'set -e; cd "$(dirname "$0")"', *lines])
            + "\n"
        )


def make_plan(model: CompiledModel, limits: Limits, options: Options, programs: Sequence[str] | None = None) -> Plan:
    """Plan the programs (all that are declared), in the order of the target `onnx`. Raises DiagnosticError where none can be planned."""
    from ...processor.model import model_processor

    precisions(options.precision, str(model.dtype).removeprefix("torch."))
    twin = on_meta(model)
    processor = model_processor(twin.spec, twin.graph)
    made: dict[str, tuple[Planned, tuple[Profile, ...]]] = {}
    refused: dict[str, Diagnostic] = {}
    decoders = 0
    for name in programs if programs is not None else list(twin.graph.programs):
        if name not in twin.graph.programs:
            text = f"{twin.graph.name} has no program {name!r}"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix=f"programs: {', '.join(twin.graph.programs)}"))
        try:
            sizes = measured(twin, name, limits, processor)
            try:
                alone = measured(twin, name, limits, processor, media=False) if twin.graph.programs[name].cache else None
            except REFUSALS:  # no text without media
                alone = None
            found = graphs_of(twin, name, sizes, alone, f"{name}." if decoders else "")
            made |= {g.name: (typed(g, options), tuple(profiles_of(g, own))) for g, own in found}
        except DiagnosticError as error:
            refused[name] = error.diagnostics[0]
            continue
        decoders += bool(twin.graph.programs[name].cache)
    if not made:
        raise DiagnosticError(*refused.values())
    return Plan(twin.graph.name, str(model.dtype).removeprefix("torch."), limits, options, made, refused)


def measured(twin: CompiledModel, name: str, limits: Limits, processor: Processor, media: bool = True) -> Sizes:
    """The sizes of a program, with the inputs that it draws."""
    tables = twin.spec.data.get("processor") or {}
    sizes = sizes_of(twin.programs[name].source, twin.graph, tables, processor, name, limits, media)
    sizes.present |= drawn(twin, name, sizes)
    return sizes


def typed(graph: Planned, options: Options) -> Planned:
    """Keys and values are kept in the precision of the decoder."""
    kept = options.precision.get("decoder")
    if kept is None:
        return graph
    entries = [replace(e, dtype=kept) if e.name.startswith("past_key_values.") and e.dtype == "float32" else e for e in graph.inputs]
    return replace(graph, inputs=tuple(entries))


def on_meta(model: CompiledModel) -> CompiledModel:
    """The model without storage: a plan needs shapes only."""
    if model.device.type == "meta":
        return model
    from ...lower.model import CompiledModel

    return CompiledModel(model.spec, model.graph, "meta", model.dtype, "eager")


def precisions(given: Choice, dtype: str = "float32") -> dict[str, str]:
    """Types of products by role, `float16` for all. Raises DiagnosticError for roles and types that there are not, or not in a graph that
    is in `dtype` throughout."""
    found = by_role(given, "precision", {kind: kind for kind in PRECISIONS}, ROLES)
    for role, kind in found.items():
        if dtype not in ("float32", kind):
            text = f"{role} in {kind}, but the graph is in {dtype} throughout"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="export from float32 weights, and let the precision of roles decide"))
    return found
