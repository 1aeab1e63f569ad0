"""A declarative graph compiler for vision-language models."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["check", "compile", "elaborate", "export", "load", "read_spec"]


def __getattr__(name: str) -> Any:
    """The API is imported at its first use, so that `import vlmgraph` stays fast."""
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'vlmgraph' has no attribute {name!r}")
