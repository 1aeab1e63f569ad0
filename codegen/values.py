"""Names that are settled at the end, when all that the file defines is known."""

from __future__ import annotations

import ast
from typing import Any


def reference(target: Any, text: str = "pending") -> ast.Name:
    """A name of a planned class, a global of some source module, or an import."""
    made = ast.Name(id=text, ctx=ast.Load())
    made.target = target  # type: ignore[attr-defined]
    return made
