"""Vision towers whose maps grow coarser and wider stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .init import plain


class ConvEmbed(nn.Module):
    """Overlapping patches: a strided convolution with a norm over the channels behind it, or in front with `norm_first`:
    [B, channels, H, W] → [B, width, h, w] (CvT, arXiv 2103.15808, section 3.2)."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, padding: int, norm_first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels if norm_first else width)
        self.norm_first = norm_first

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.conv(x)
        return x if self.norm_first else self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Hierarchical(nn.Module):
    """image [B, 3, H, W] → map [B, width of the last stage, h, w]: a stage is an embedding and blocks on its map."""

    def __init__(self, embeds: Sequence[nn.Module], stages: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(embeds)
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)

    def init_weights(self) -> None:
        """Matrices and kernels N(0, 0.02), biases zero."""
        plain(self, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for embed, blocks in zip(self.embeds, self.stages, strict=True):
            x = embed(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
        return x


class GridPositions(nn.Module):
    """map [B, d, H, W] → tokens [B, H * W, d] in raster order, plus a learned vector for each column (first half of the channels) and row
    (the other half); tables of `size` rows."""

    def __init__(self, size: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.columns = nn.Parameter(torch.empty(size, width - width // 2))
        self.rows = nn.Parameter(torch.empty(size, width // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.columns, std=self.std)
        nn.init.normal_(self.rows, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Raises MapTooLarge."""
        height, width = x.shape[2], x.shape[3]
        if height > len(self.rows) or width > len(self.columns):
            raise MapTooLarge(f"a map of {height} x {width}, but there are positions for {len(self.rows)} x {len(self.columns)}")
        along = self.columns[:width][None].expand(height, -1, -1)
        down = self.rows[:height][:, None].expand(-1, width, -1)
        return (x.permute(0, 2, 3, 1) + torch.cat([along, down], dim=-1)).flatten(1, 2)


class MapTooLarge(ValueError):
    """A map has more rows or columns than there are positions."""


class FramePositions(nn.Module):
    """tokens [B, N, d] of one frame, or [B, F, N, d], plus sines (even channels) and cosines (odd ones) of the frame's number.

    The table [count, d] is no parameter, but checkpoints hold it.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            count, width = self.table.shape
            half = width // 2
            rates = torch.exp(torch.arange(half).float() * -(torch.log(torch.tensor(10000.0)) / half))
            angles = torch.arange(count).float()[:, None] * rates
            self.table[:, 0::2] = angles.sin()
            self.table[:, 1::2] = angles.cos()

    def forward(self, x: Tensor) -> Tensor:
        frames = self.table[:1] if x.dim() == 3 else self.table[: x.shape[1], None]
        return x + frames.to(x.dtype)
