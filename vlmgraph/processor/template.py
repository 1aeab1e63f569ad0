"""The template language of prompts: `{name}`, `{name:03}` for padded numbers, `{{` and `}}` for braces. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import problems
from .problems import problem

FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)(?::0?(\d{1,2}))?\}")


def fields(template: str) -> list[tuple[str, int]]:
    """Names in order, each with the number of digits it is padded to (0: not padded)."""
    return [(m[1], int(m[2] or 0)) for m in FIELD.finditer(template) if m[1]]


def fill(template: str, values: Mapping[str, object]) -> str:
    """`template` with its fields replaced in one pass, so that braces inside a value stay as they are.

    Raises VG0712 for a field without a value.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise problem(problems.TEMPLATE, f"the template {template!r} needs a value for `{name}`", f"give {name}=...; given: {known}")
        return str(values[name]).zfill(int(match[2] or 0))

    return FIELD.sub(value, template)
