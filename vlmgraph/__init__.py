"""A declarative graph compiler for vision-language models."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

__all__ = ["check", "compile", "elaborate", "export", "load", "read_spec"]


def __getattr__(name: str) -> Any:
    """The API is imported at its first use, so that `import vlmgraph` stays fast."""
    if name in __all__:
        from . import api

        function = globals()[name] = getattr(api, name)
        return function
    raise AttributeError(f"module 'vlmgraph' has no attribute {name!r}")


class _Package(ModuleType):
    """`vlmgraph.export` is the function, also after somebody imports the folder of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
