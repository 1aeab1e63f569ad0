"""What a program draws, as inputs: an optional input that it draws where it is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...ir.types import Type


class Draws(TorchDispatchMode):
    """Keeps what operators that draw random numbers give."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(out, Tensor):
            self.made.append(out)
        return out


def as_inputs(drawn: list[Tensor], left_out: Mapping[str, Type]) -> dict[str, Tensor]:
    """The values that were drawn, by the optional inputs that they are of: those of as many dims, in order, and all or none of them."""
    names = list(left_out)
    found: dict[str, Tensor] = {}
    for value in drawn:
        name = next((n for n in names if len(left_out[n].dims) == value.dim()), None)
        if name is None:
            return {}
        names.remove(name)
        found[name] = value.clone()
    return found
