"""Plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """1x1, depth-wise 3x3, squeeze and excite, 1x1; added to its input. [B, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.norm1 = nn.Conv2d(channels, channels, 1), ChannelNorm(channels)
        self.local, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels), ChannelNorm(channels)
        self.squeeze, self.excite = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)
        self.leave, self.norm3 = nn.Conv2d(channels, channels, 1), ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.enter(x)))
        y = F.silu(self.norm2(self.local(y)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3))))))
        y = self.norm3(self.leave(y * gate[:, :, None, None]))
        return F.silu(x + y)


class CAbstractor(nn.Module):
    """tokens [B, g*g, d_in] -> [B, queries, d_out]: every output token sees a neighbourhood of the image."""

    def __init__(self, queries: int, grid: int, depth: int, width: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.grid, self.side = grid, round(queries**0.5)
        self.position = nn.Parameter(torch.empty(grid * grid, d_in))
        self.enter = nn.Identity() if d_in == width else nn.Conv2d(d_in, width, 1)
        self.before = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.after = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.readout = nn.Sequential(nn.Linear(width, d_out), nn.SiLU(), nn.Linear(d_out, d_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.position).transpose(1, 2).unflatten(2, (self.grid, self.grid))  # [B, d_in, g, g]
        x = self.before(self.enter(x))
        x = F.adaptive_avg_pool2d(x, self.side)
        return self.readout(self.after(x).flatten(2).transpose(1, 2))


class CyclicLoss(nn.Module):
    """Mean squares of (s_ij - s_ji) and of (image_i . image_j - text_i . text_j)."""

    def __init__(self, cross: float, inner: float) -> None:
        super().__init__()
        self.cross, self.inner = cross, inner

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        between = image @ text.T
        within = image @ image.T - text @ text.T
        return self.cross * (between - between.T).square().mean() + self.inner * within.square().mean()
