"""What is quantised: a type for each role, as `int8` or `encoder=int8` say it."""

from __future__ import annotations

from ....ir.roles import LANGUAGE, OP, ROLES, Choice, by_role

BITS = {"int8": 8, "int4": 4}
TYPES = {**{name: name for name in BITS}, "none": None}


def chosen(given: Choice | None) -> dict[str, str]:
    """Types by role; `none` takes a role out. Raises DiagnosticError for roles and types that there are not."""
    found = by_role(given or (), "quantize", TYPES, LANGUAGE, [role for role in ROLES if role != OP])
    return {role: kind for role, kind in found.items() if kind is not None}
