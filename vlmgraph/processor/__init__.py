"""Pictures, videos and texts to the inputs of a model, as the published processors make them. Needs numpy and Pillow, not torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .check import read_tables
    from .core import Counts, Processor, build_processor
    from .videos import Video

__all__ = ["Counts", "Processor", "Video", "build_processor", "read_tables"]

_HOME = {"Counts": "core", "Processor": "core", "build_processor": "core", "Video": "videos", "read_tables": "check"}


def __getattr__(name: str) -> Any:
    """Numpy and Pillow are imported with the first processor, not by checking a spec."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
