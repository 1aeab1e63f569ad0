"""What a rule may do to a tensor between the checkpoint and the model; each with its inverse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .templates import TemplateError


class Operation(Protocol):
    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """From the checkpoint's form to the model's, whose shape is `shape`."""

    def save(self, x: Tensor) -> Tensor:
        """Back."""


@dataclass(frozen=True)
class Transpose:
    """Two axes change places."""

    first: int
    second: int

    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.transpose(self.first, self.second).contiguous()

    def save(self, x: Tensor) -> Tensor:
        return x.transpose(self.first, self.second).contiguous()


@dataclass(frozen=True)
class Reshape:
    """The same numbers in another shape; `shape` is the checkpoint's, with one -1 at most."""

    shape: tuple[int, ...]

    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        known = [n for n in self.shape if n != -1]
        given = [n for n, wanted in zip(x.shape, self.shape) if wanted != -1]
        if x.dim() != len(self.shape) or given != known or x.numel() != _count(shape):
            return x
        return x.reshape(tuple(shape))

    def save(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)


@dataclass(frozen=True)
class Grid:
    """Rows for the places of a square grid: the checkpoint has them as [1, side, side, width], the model as [side * side, width]."""

    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x if x.dim() != 4 or len(x) != 1 or x.shape[1] != x.shape[2] else x[0].flatten(0, 1)

    def save(self, x: Tensor) -> Tensor:
        side = math.isqrt(len(x))
        return x.unflatten(0, (side, side))[None]


@dataclass(frozen=True)
class Rope:
    """Rows of queries or keys: pairs that rotate stand side by side in the checkpoint, half a head apart in the model."""

    heads: int

    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()

    def save(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


@dataclass(frozen=True)
class ByHead:
    """Rows of a fused projection: the checkpoint has all `parts` (q, k, v) of a head together, the model all heads of a part."""

    heads: int
    parts: int

    def load(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.unflatten(0, (self.heads, self.parts, -1)).transpose(0, 1).flatten(0, 2).contiguous()

    def save(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.parts, self.heads, -1)).transpose(0, 1).flatten(0, 2).contiguous()


def _count(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def read_operation(table: Mapping[str, Any], values: Mapping[str, Any]) -> Operation:
    """`{ transpose = [0, 1] }`, `{ reshape = [1, -1] }`, `{ grid = true }`, `{ rope = 8 }` or `{ by_head = [8, 3] }`.

    `"$name"` stands for a value of the configuration.
    """

    def number(item: int | str) -> int:
        if isinstance(item, str):
            name = item.removeprefix("$")
            if not isinstance(values.get(name), int):
                raise TemplateError(f"an operation asks for the number {name!r}, which the configuration does not give")
            return int(values[name])
        return item

    match dict(table):
        case {"transpose": [int(a), int(b)], **rest} if not rest:
            return Transpose(a, b)
        case {"reshape": list(shape), **rest} if not rest:
            return Reshape(tuple(number(n) for n in shape))
        case {"grid": True, **rest} if not rest:
            return Grid()
        case {"rope": int() | str() as heads, **rest} if not rest:
            return Rope(number(heads))
        case {"by_head": [int() | str() as heads, int(parts)], **rest} if not rest:
            return ByHead(number(heads), parts)
    raise TemplateError(f"{dict(table)} is no operation; there are transpose, reshape, grid, rope and by_head")
