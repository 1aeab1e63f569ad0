"""Names that are settled at the end, when all that the file defines is known."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Special:
    """A function of the source, written for the calls that are made of it here."""

    key: tuple[str, str]


def reference(target: Any, text: str = "pending") -> ast.Name:
    """A name of a planned class, a global of some source module, or an import."""
    made = ast.Name(id=text, ctx=ast.Load())
    made.target = target  # type: ignore[attr-defined]
    return made
