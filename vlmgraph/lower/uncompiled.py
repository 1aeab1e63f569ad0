"""Shapes on the meta device without torch's compiler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"
MARK = "__dynamo_disable"


@contextmanager
def uncompiled() -> Iterator[None]:
    """While the block runs, operations on meta tensors do not import torch's compiler.

    Many of them are written in Python and marked "not to be compiled"; to honour the mark torch imports the whole compiler, which takes as
    long as torch itself. Here nothing is compiled, so a stand-in honours it. Everything is as before once the block ends. For a process of
    one thread whose business is to write a model down: the command line.
    """
    if NAME in sys.modules:
        yield
        return
    marked: list[Any] = []

    class StandIn(ModuleType):
        @staticmethod
        def disable(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
            if function is not None:
                marked.append(function)
            return function

    stand_in = StandIn(NAME)
    sys.modules[NAME] = stand_in
    before = vars(torch).get("_dynamo")
    torch._dynamo = stand_in  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if sys.modules.get(NAME) is stand_in:
            del sys.modules[NAME]
        if vars(torch).get("_dynamo") is stand_in:
            del torch._dynamo
            if before is not None:
                torch._dynamo = before  # type: ignore[attr-defined]
        for function in marked:  # torch keeps what it was given: a later compilation asks again
            if getattr(function, MARK, None) is function:
                delattr(function, MARK)
