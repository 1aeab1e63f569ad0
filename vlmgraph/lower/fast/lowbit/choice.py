"""What is quantised: a type for each role, as `int8` or `encoder=int8` say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....diagnostics import Diagnostic, DiagnosticError
from ....diagnostics import codes as C
from ....ir import roles as ir

ROLES = tuple(role for role in ir.ROLES if role != ir.OP)
USUAL = ("decoder", "head")
"""The language model, which is read anew for every token. Vision and connectors run once a picture, and suffer more."""
BITS = {"int8": 8, "int4": 4}
NONE = "none"

Choice = str | Sequence[str] | Mapping[str, str]


def chosen(given: Choice | None) -> dict[str, str]:
    """Types by role. A type without a role is that of the language model, `decoder` and `head`; later ones win, `none` takes a role out.

    Raises DiagnosticError for roles and types that there are not.
    """
    if not given:
        return {}
    texts = [given] if isinstance(given, str) else [f"{r}={t}" for r, t in given.items()] if isinstance(given, Mapping) else given
    found: dict[str, str] = {}
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        role, separator, kind = text.rpartition("=")
        if separator and role not in ROLES:
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"quantize: there is no role {role!r}", fix=f"roles: {', '.join(ROLES)}"))
        if kind not in (*BITS, NONE):
            fix = f"one of {', '.join((*BITS, NONE))}, for a role with ROLE= in front"
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"quantize: there is no type {kind!r}", fix=fix))
        found |= {role: kind} if separator else dict.fromkeys(USUAL, kind)
    return {role: kind for role, kind in found.items() if kind != NONE}
