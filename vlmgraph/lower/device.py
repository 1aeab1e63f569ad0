"""Whether a device is there, before anything is built for it."""

from __future__ import annotations

import torch

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C


def usable(device: str | torch.device) -> None:
    """Raises DiagnosticError for a device that torch has not, or that this machine has not; `meta` is always there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]
        text = f"the device {str(device)!r} cannot be used: {str(error).splitlines()[0].rstrip('.')}"
        notes = (f"torch {torch.__version__}; devices here: {', '.join(there)}",)
        raise DiagnosticError(Diagnostic(C.NO_DEVICE, text, notes=notes, fix=f'device="{there[-1]}", --device {there[-1]}')) from error
