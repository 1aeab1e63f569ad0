"""JSON files of checkpoints; without torch, so that a configuration can be read alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..diagnostics import Diagnostic, DiagnosticError
from ..diagnostics import codes as C


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DiagnosticError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{where}: not JSON: {error.msg}")) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{path} cannot be read: {error}")) from error
    if not isinstance(value, dict):
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{path} holds no JSON object"))
    return value
