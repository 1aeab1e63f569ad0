"""torch's library of ONNX functions, read once: torch reads its thousand functions again for every graph, which takes seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

KNOWN: dict[object, Any] = {}
"""Registries by the arguments they were made with."""


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """A registry is a copy of the first that was made like it; where this torch makes them otherwise, it goes on as it does."""
    try:
        from torch.onnx._internal.exporter import _registration as at

        kind: Any = at.ONNXRegistry
        usual = kind.__dict__["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def copied(cls: Any, *args: Any, **options: Any) -> Any:
        key = (args, *sorted(options.items()))
        if key not in KNOWN:
            KNOWN[key] = usual.__func__(cls, *args, **options)
        made = cls()
        made.__dict__ |= KNOWN[key].__dict__
        made.functions = {name: list(several) for name, several in made.functions.items()}  # what is added to one is not in the next
        return made

    kind.from_torchlib = classmethod(copied)
    try:
        yield
    finally:
        kind.from_torchlib = usual
