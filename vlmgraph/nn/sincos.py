"""Positions as sines and cosines of many wavelengths (arXiv 1706.03762, section 3.5). No parameters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SinusoidalPositions(nn.Module):
    """positions [B, N] → [B, N, width]: all sines, then all cosines, of wavelengths from 2 pi to 2 pi theta, both ends included.

    That is the form of tensor2tensor and fairseq. `offset` is what position 0 counts as. A token without a position, below 0, gets zeros;
    an odd width ends in a zero.
    """

    def __init__(self, width: int, offset: int = 0, theta: float = 10000.0) -> None:
        super().__init__()
        self.width, self.offset, self.theta = width, offset, theta

    def forward(self, positions: Tensor) -> Tensor:
        half = self.width // 2
        step = math.log(self.theta) / max(half - 1, 1)
        rates = torch.exp(torch.arange(half, dtype=torch.float32, device=positions.device) * -step)
        angles = (positions + self.offset)[..., None].float() * rates
        table = torch.cat([angles.sin(), angles.cos()], dim=-1)
        table = torch.where(positions[..., None] >= 0, table, torch.zeros_like(table))
        return F.pad(table, (0, self.width % 2))


class ImageSinCos(nn.Module):
    """x [B, rows * columns, width] + [sin column, cos column, sin row, cos row] of every patch, width / 4 wavelengths each; any grid.

    The layout of MAE and MoCo v3 (arXiv 2111.06377), which AIMv2's native resolution shares (arXiv 2411.14402, section 3.3).
    """

    def __init__(self, width: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.width, self.theta = width, theta

    def forward(self, x: Tensor, rows: int, columns: int, mask: Tensor | None = None) -> Tensor:
        """A mask of the patches changes nothing: padding has a place too."""
        quarter = self.width // 4
        rates = self.theta ** (torch.arange(quarter, dtype=torch.float32, device=x.device) / -quarter)
        down = torch.arange(rows, dtype=torch.float32, device=x.device)[:, None] * rates
        along = torch.arange(columns, dtype=torch.float32, device=x.device)[:, None] * rates
        down, along = torch.cat([down.sin(), down.cos()], 1), torch.cat([along.sin(), along.cos()], 1)
        table = torch.cat([along[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], dim=-1)
        return x + table.flatten(0, 1).to(x.dtype)
