"""Fewer tokens out of packed patches: blocks to one token each, and rows that are kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable


class BlockSizes(ValueError):
    """Grids, block sides and patches that do not fit together."""


class MergePatches(nn.Module):
    """x [P, d], grid [n, 3] of frames, rows and columns, merges [n] → [Q, d]: every block of m x m patches of an image is one, m = merges.

    Patches come block by block. A frame is made m times smaller with bilinear interpolation, so a token is the mean of the four patches
    around the centre of its block: of the whole block for m = 2, the patch itself for m = 1 (VideoLLaMA 3, arXiv 2501.13106). On the meta
    device, where there are no sizes, every patch is one.
    """

    def forward(self, x: Tensor, grid: Tensor, merges: Tensor) -> Tensor:
        """Raises BlockSizes."""
        if x.device.type == "meta":
            return x
        if readable(x):
            self.check(len(x), grid, merges)
        side = merges.to(x.device).long()
        patches = grid.to(x.device).prod(dim=1)
        blocks = patches // side**2
        image = torch.repeat_interleave(torch.arange(grid.shape[0], device=x.device), blocks)
        own = torch.arange(image.shape[0], device=x.device) - (blocks.cumsum(0) - blocks)[image]  # the block's number in its image
        m = side[image]
        first = (patches.cumsum(0) - patches)[image] + own * m**2
        low, high = (m - 1) // 2, m // 2  # the rows, and the columns, around the centre
        upper = x[first + low * m + low] + x[first + low * m + high]
        return (upper + (x[first + high * m + low] + x[first + high * m + high])) / 4

    def check(self, count: int, grid: Tensor, merges: Tensor) -> None:
        sides = merges.to(grid.device)[:, None]
        if len(merges) != len(grid) or bool((sides < 1).any()) or bool((grid[:, 1:] % sides).any()):
            raise BlockSizes(f"blocks of {merges.tolist()} do not divide the rows and columns of {grid.tolist()}")
        if int(grid.prod(dim=1).sum()) != count:
            raise BlockSizes(f"grids {grid.tolist()} have {int(grid.prod(dim=1).sum())} patches, but there are {count}")


class Keep(nn.Module):
    """x [N, d] and keep [N], True for rows that stay → [K, d]. On the meta device, where there are no values, all stay."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return x if x.device.type == "meta" else x[keep.to(x.device).bool()]
