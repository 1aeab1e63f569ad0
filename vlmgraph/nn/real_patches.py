"""Patches of padded images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RealPatches(nn.Module):
    """x [B, C, H, W] padded at the right and at the bottom, sizes [B, 2] in pixels without padding → bool [B, rows * columns].

    A patch is real where all of its pixels are.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        down = torch.arange(1, rows + 1, device=x.device) * self.patch <= sizes[:, :1]
        along = torch.arange(1, columns + 1, device=x.device) * self.patch <= sizes[:, 1:]
        return (down[:, :, None] & along[:, None]).flatten(1)
