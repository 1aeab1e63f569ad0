"""Tokens regrouped without arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

Axes = tuple[tuple[str, ...], ...]


class PixelShuffle(nn.Module):
    """Blocks of neighbouring tokens become the channels of one: [..., N, d] → [..., N / (h * w), h * w * d] for blocks of h x w.

    order "block-major": the tokens come block by block already, channels (token, c) (Qwen2-VL).
    The others take a square grid, rows first, and give the smaller grid, rows first: "hwc" has channels (row, column, c) (InternVL,
    Idefics3), "chw" has (c, row, column) (DeepSeek-VL2). `pad` adds zero rows and columns at the end up to a multiple of the block.
    """

    def __init__(self, block: Sequence[int] = (2, 2), order: str = "hwc", pad: bool = False) -> None:
        super().__init__()
        self.block, self.order, self.pad = tuple(block), order, pad

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.block
        if self.order == "block-major":
            return x.reshape(*x.shape[:-2], x.shape[-2] // (h * w), h * w * x.shape[-1])
        side = math.isqrt(x.shape[-2])
        x = x.unflatten(-2, (side, side))
        if self.pad:
            x = F.pad(x, (0, 0, 0, -side % w, 0, -side % h))
        x = x.unflatten(-2, (-1, w)).unflatten(-4, (-1, h))  # [..., rows, h, columns, w, d]
        first = x.dim() - 5
        inner = (1, 3, 4) if self.order == "hwc" else (4, 1, 3)
        x = x.permute(*range(first), *(first + i for i in (0, 2, *inner)))
        return x.flatten(-3).flatten(-3, -2)


class Rearrange(nn.Module):
    """Dims named on the left, regrouped on the right: `(("b",), ("h", "f"))` splits the second dim in two. sizes gives the lengths that
    do not follow from the shape."""

    def __init__(self, left: Axes, right: Axes, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.left, self.right, self.sizes = left, right, dict(sizes or {})

    def forward(self, x: Tensor) -> Tensor:
        for i in reversed(range(len(self.left))):
            if len(self.left[i]) > 1:
                x = x.unflatten(i, [self.sizes.get(name, -1) for name in self.left[i]])
        names = [name for group in self.left for name in group]
        x = x.permute([names.index(name) for group in self.right for name in group])
        for i, group in enumerate(self.right):
            x = x.flatten(i, i + len(group) - 1)
        return x
