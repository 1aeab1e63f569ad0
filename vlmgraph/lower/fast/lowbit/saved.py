"""A quantised model made again from what its folder says of it, for its codes to be filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from .quantize import Part, Quantization

if TYPE_CHECKING:
    from ...model import CompiledModel


def restored(path: Path, lock: Path, dtype: torch.dtype | None, mode: str) -> CompiledModel:
    """On the meta device. Raises DiagnosticError where quantization.json is none."""
    from ....api import compile

    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = dtype or getattr(torch, saved["dtype"])
        types, parts = dict(saved["types"]), {role: Part.of(row) for role, row in saved["roles"].items()}
        left = dict(saved["left"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path} does not say what is quantised: {type(error).__name__}: {error}"
        raise DiagnosticError(Diagnostic(C.BAD_WEIGHTS, text, fix="save the model again")) from error
    model = compile(lock, device="meta", dtype=kind, mode=mode, quantize=types)
    model.quantization = Quantization(types, parts, left)
    return model
