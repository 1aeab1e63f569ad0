"""CLIP's ResNet: a three-convolution stem and average pools in front of strided steps (arXiv 2103.00020, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def pool(stride: int) -> nn.Module:
    """Average pooling in the place of a strided convolution, against aliasing (arXiv 1904.11486)."""
    return nn.AvgPool2d(stride) if stride > 1 else nn.Identity()


class Stem(nn.Module):
    """Three 3x3 convolutions and a pool: [B, c_in, H, W] → [B, width, H/4, W/4]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.pool = pool(2)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.relu(norm(conv(x)))
        return self.pool(x)


class Shortcut(nn.Module):
    """Pool, then a 1x1 convolution: brings the input of a bottleneck to the shape of its output."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.pool = pool(stride)
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.pool(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, pool, 1x1: [B, c_in, h, w] → [B, 4 * width, h/stride, w/stride]. All convolutions have stride 1."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.pool = pool(stride)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        changes = stride > 1 or channels_in != 4 * width
        self.shortcut = Shortcut(channels_in, 4 * width, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(self.pool(y)))
        return F.relu(self.shortcut(x) + y)

    def init_weights(self) -> None:
        """Every residual branch starts at zero."""
        nn.init.zeros_(self.norm3.weight)


class ResNet(nn.Module):
    """[B, channels, H, W] → the map of the last stage in raster order: [B, (H/32)*(W/32), 32 * width]."""

    def __init__(self, layers: Sequence[int], width: int = 64, channels: int = 3) -> None:
        super().__init__()
        self.stem = Stem(channels, width)
        self.stages = nn.ModuleList()
        current = width
        for i, depth in enumerate(layers):
            inner = width * 2**i
            blocks = [Bottleneck(current, inner, 2 if i else 1)] + [Bottleneck(4 * inner, inner, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            current = 4 * inner

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
