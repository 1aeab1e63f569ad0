"""The ways a processor refuses: one function, so that every refusal is a diagnostic with a way out."""

from __future__ import annotations

from collections.abc import Sequence

from ..diagnostics.core import Diagnostic, DiagnosticError

CONFIG = "VG0701"
OPEN = "VG0702"
NOT_AN_IMAGE = "VG0703"
DAMAGED = "VG0704"
TOO_LARGE = "VG0705"
EMPTY = "VG0706"
SHAPE = "VG0707"
COUNT = "VG0708"
TOO_LONG = "VG0709"
TOKENIZER = "VG0710"
STAND_IN = "VG0711"
TEMPLATE = "VG0712"
CALL = "VG0713"
BOXES = "VG0714"
TOKEN = "VG0715"
NAME = "VG0716"
SIZE = "VG0717"


def problem(code: str, message: str, fix: str, notes: Sequence[str] = ()) -> DiagnosticError:
    """An error about an input of a processor. Images and texts have no lines, so the message names what is meant."""
    return DiagnosticError(Diagnostic(code, message, notes=tuple(notes), fix=fix))
