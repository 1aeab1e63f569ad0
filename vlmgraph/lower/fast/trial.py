"""The first run of a compilation beside the block as it is: what torch compiles to other numbers is not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .traced import Given

NEAR = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Relative distances that another order of sums may make within one block, with room: a wrong kernel is off by more than a tenth."""


def apart(value: Any) -> Any:
    """A call's arguments with static caches of their own."""
    if isinstance(value, Given):
        return value if value.places is None else value._replace(places=(value.places[0].clone(), value.places[1].clone()))
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(apart(v) for v in value)
    return {k: apart(v) for k, v in value.items()} if isinstance(value, dict) else value


def restore(value: Any, kept: Any) -> None:
    """Put what static caches hold in `kept` into those of `value`."""
    if isinstance(value, Given):
        for place, right in zip(value.places or (), kept.places or (), strict=True):
            place.copy_(right)
    elif isinstance(value, (tuple, dict)):
        for a, b in zip(*((v.values() if isinstance(v, dict) else v) for v in (value, kept)), strict=True):
            restore(a, b)


def difference(got: Any, wanted: Any) -> str:
    """What is wrong with what a compilation gave, or nothing."""
    for a, b in zip(tensors(got), tensors(wanted), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"it gives {a.dtype} {tuple(a.shape)} for {b.dtype} {tuple(b.shape)}"
        if b.is_floating_point():
            there = b.isfinite()
            x, y = a[there].double(), b[there].double()
            off = float((x - y).norm() / y.norm().clamp_min(1e-12))
            if not off < NEAR.get(b.dtype, 0.1) and float((x - y).abs().max()) > 1e-6:
                return f"it is off by {off:.2g}"
        elif not torch.equal(a, b):
            return "it gives other whole numbers"
    return ""


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)
