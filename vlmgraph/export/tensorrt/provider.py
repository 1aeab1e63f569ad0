"""Sessions of ONNX Runtime whose nodes run in TensorRT, from a folder's plan.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

PROVIDER = "TensorrtExecutionProvider"


def session(folder: str | Path, graph: str, onnxruntime: Any = None) -> Any:
    """A session of one graph; engines are built when it is made, and kept in `engines`.

    What TensorRT does not take runs on CUDA, and is said by onnxruntime. Raises DiagnosticError where this onnxruntime has no TensorRT,
    and where it has, but goes on without.
    """
    if onnxruntime is None:
        import onnxruntime  # type: ignore[no-redef]
    place = Path(folder)
    plan = json.loads((place / "plan.json").read_text(encoding="utf-8"))
    if graph not in plan["graphs"]:
        text = f"{place} has no graph {graph!r}"
        raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, notes=(f"graphs: {', '.join(plan['graphs'])}",)))
    if PROVIDER not in (has := onnxruntime.get_available_providers()):
        text = f"this onnxruntime has no {PROVIDER}, only {', '.join(has)}"
        raise DiagnosticError(
            Diagnostic(C.CANNOT_EXPORT, text, fix="pip install onnxruntime-gpu, and TensorRT's libraries of the version it asks for")
        )
    described = plan["graphs"][graph]
    options = dict(described["onnxruntime"])
    for key in ("trt_engine_cache_path", "trt_timing_cache_path"):
        (place / options[key]).mkdir(exist_ok=True)
        options[key] = str(place / options[key])
    made = onnxruntime.InferenceSession(str(place / described["onnx"]), providers=[(PROVIDER, options), "CUDAExecutionProvider"])
    if PROVIDER not in (ran := made.get_providers()):  # it goes on without a word
        text = f"onnxruntime made {graph} for {', '.join(ran)} in the place of {PROVIDER}"
        raise DiagnosticError(Diagnostic(C.NO_DEVICE, text, fix="what its log says is missing: a GPU, a driver, or TensorRT's libraries"))
    return made
