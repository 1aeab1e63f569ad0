"""Target `tensorrt`: the ONNX graphs, a build plan for each, and engines where TensorRT and a GPU are there.

The folder holds `plan.json` (profiles, flags, files), `build_engines.py` and `trtexec.sh`, which build the engines from it on another
machine, the graphs where there are weights (`onnx` are the proved ones), and `NAME.engine` after a build.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.roles import Choice, role_of
from .limits import Limits, parse_limits
from .plan import Options, Plan, make_plan, precisions

if TYPE_CHECKING:
    from ...lower.model import CompiledModel

ONNX = "onnx"


@dataclass
class Report:
    """What was written."""

    folder: Path
    plan: Plan
    engines: list[Path] = field(default_factory=list)
    operators: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Diagnostic] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [("graph", "phase", "dims: smallest, usual, largest")]
        for name, (_, profiles) in self.plan.graphs.items():
            lines += [(name, p.phase, "  ".join(f"{d} {'/'.join(map(str, r))}" for d, r in p.dims.items())) for p in profiles]
        widths = [max(len(line[i]) for line in lines) for i in range(2)]
        return "\n".join(f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in lines)


def export(
    model: CompiledModel,
    folder: Path,
    plan_only: bool = False,
    limits: Limits | Sequence[str] = (),
    precision: Choice = (),
    programs: list[str] | None = None,
    opset: int | None = None,
    observe: Callable[[str], None] = lambda name: None,
) -> Report:
    """Write the plan, the graphs where the model has weights, and engines unless `plan_only`.

    Raises DiagnosticError where engines cannot be built here, saying what is missing; where the graphs and the plan disagree; and for
    options that cannot be meant.
    """
    from .missing import cannot_build, missing

    if not plan_only:
        if lacking := missing():
            raise DiagnosticError(cannot_build(lacking))
        if model.device.type == "meta":
            raise DiagnosticError(
                Diagnostic(C.CANNOT_EXPORT, f"{model.graph.name} has no weights to build an engine of", fix="--plan-only")
            )
    options = Options(precisions(precision))
    plan = make_plan(model, limits if isinstance(limits, Limits) else parse_limits(list(limits)), options, programs)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder, plan, refused=dict(plan.refused))
    if model.device.type != "meta":
        from ..onnx import export as export_onnx

        chosen = list(dict.fromkeys(g.program for g, _ in plan.graphs.values()))
        given: dict[str, Any] = {} if opset is None else {"opset": opset}
        report.refused |= export_onnx(model, folder / ONNX, programs=chosen, observe=observe, **given).refused
        write_graphs(report, model, folder / ONNX)
    plan = report.plan
    text = json.dumps(plan.json(report.operators or None), indent=1)
    (folder / "plan.json").write_text(text + "\n", encoding="utf-8")
    (folder / "trtexec.sh").write_text(plan.script(), encoding="utf-8")
    (folder / "build_engines.py").write_text((Path(__file__).parent / "build.py").read_text(encoding="utf-8"), encoding="utf-8")
    if not plan_only:
        from .build import BuildError, build

        try:
            report.engines = build(folder)
        except BuildError as error:
            raise DiagnosticError(Diagnostic(C.CANNOT_EXPORT, str(error))) from error
    return report


def preflight(plan_only: bool = False, limits: Sequence[str] = (), precision: Sequence[str] = (), **_: Any) -> None:
    """What can be told before there is a model. Raises DiagnosticError for senseless options, and where engines cannot be built."""
    from .missing import cannot_build, missing

    parse_limits(list(limits))
    precisions(precision)
    if not plan_only and (lacking := missing()):
        raise DiagnosticError(cannot_build(lacking))


export.preflight = preflight  # type: ignore[attr-defined]


def write_graphs(report: Report, model: CompiledModel, proved: Path) -> None:
    """Write the graphs for TensorRT of the `proved` ones. The report learns what the parser's list says of each; its plan is then of those
    that are there. Raises DiagnosticError where the plan is not of these graphs."""
    from .agree import disagreements
    from .operators import gaps, published
    from .prepare import prepare

    manifest = json.loads((proved / "manifest.json").read_text(encoding="utf-8"))
    if wrong := disagreements(report.plan, manifest):
        raise DiagnosticError(*wrong)
    there = {name: planned for name, planned in report.plan.graphs.items() if name in manifest["graphs"]}
    report.plan = replace(report.plan, graphs=there, refused=report.refused)
    found: dict[str, Any] = {}
    for name in report.plan.graphs:
        source = proved / manifest["graphs"][name]["file"]
        kinds = report.plan.options.precision
        ready = prepare(source, report.folder / f"{name}.onnx", kinds, role_of(model.graph))
        found[name] = [g.json() for g in gaps(ready)]
    report.operators = {"source": published()["source"], "version": published()["version"], "not_covered": found}


__all__ = ["Limits", "Options", "Plan", "Report", "export", "make_plan"]
