"""NFNet: residual networks without normalisation (arXiv 2102.06171), the vision encoder of Flamingo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAMMA = 1.7015043497085571
"""Keeps the variance of a unit normal through a GELU at one."""
ALPHA = 0.2
"""Growth of a residual branch's variance."""


def act(x: Tensor) -> Tensor:
    return F.gelu(x) * GAMMA


class Conv(nn.Module):
    """A convolution whose filters are standardised at every use: mean 0, variance 1 / fan-in, times a learned gain (section 2).

    Padded as TensorFlow does: as many outputs as inputs over the stride, an odd pixel at the end.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in // groups, kernel, kernel))
        self.gain = nn.Parameter(torch.empty(channels_out, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels_out))
        self.kernel, self.stride, self.groups, self.eps = kernel, stride, groups, eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=math.sqrt(1 / self.weight[0].numel()))
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        fan_in = self.weight[0].numel()
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) * (self.gain * (variance + self.eps).rsqrt() * fan_in**-0.5)
        missing = [max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[-2:]]
        if any(missing):
            (top, left) = (m // 2 for m in missing)
            x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
        return F.conv2d(x, weight, self.bias, self.stride, groups=self.groups)


class SqueezeExcite(nn.Module):
    """Every channel times a gate that reads the average of all of them (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, channels // 2)
        self.up = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.up(F.relu(self.down(x.mean((2, 3)))))
        return x * gate.sigmoid()[..., None, None]


class Block(nn.Module):
    """x + alpha * gain * f(act(x) * beta): 1x1, two grouped 3x3, 1x1, squeeze and excitation times two. `gain` starts at zero."""

    def __init__(self, channels_in: int, channels: int, stride: int, group: int, beta: float) -> None:
        super().__init__()
        inner = channels // 2
        groups = max(inner // group, 1)
        self.beta, self.stride = beta, stride
        self.shortcut = Conv(channels_in, channels, 1) if channels_in != channels or stride > 1 else None
        self.conv1 = Conv(channels_in, inner, 1)
        self.conv2 = Conv(inner, inner, 3, stride, groups)
        self.conv3 = Conv(inner, inner, 3, 1, groups)
        self.conv4 = Conv(inner, channels, 1)
        self.excite = SqueezeExcite(channels)
        self.gain = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        y = act(x) * self.beta
        if self.shortcut is not None:
            pooled = F.avg_pool2d(y, 2, self.stride, ceil_mode=True, count_include_pad=False) if self.stride > 1 else y
            x = self.shortcut(pooled)
        y = self.conv4(act(self.conv3(act(self.conv2(act(self.conv1(y)))))))
        return x + ALPHA * self.gain * (2 * self.excite(y))


class NFNet(nn.Module):
    """image [B, 3, H, W] → tokens [B, H/32 * W/32, d], the last map in raster order.

    `depths` and `widths` of the stages; grouped convolutions have `group` channels a group. `final` channels of a last 1x1 convolution
    with an activation, 0 for none.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], stem: int, group: int, final: int = 0, channels: int = 3) -> None:
        super().__init__()
        sizes = (channels, stem // 8, stem // 4, stem // 2, stem)
        strides = (2, 1, 1, 2)
        self.stem = nn.ModuleList(Conv(a, b, 3, s) for a, b, s in zip(sizes, sizes[1:], strides))
        self.stages = nn.ModuleList()
        current, variance = stem, 1.0
        for i, (depth, width) in enumerate(zip(depths, widths)):
            blocks = nn.ModuleList()
            for j in range(depth):
                blocks.append(Block(current, width, 2 if i and not j else 1, group, variance**-0.5))
                variance = (1.0 if j == 0 else variance) + ALPHA**2  # the shortcut's convolution brings it back to one
                current = width
            self.stages.append(blocks)
        self.final = Conv(current, final, 1) if final else None

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for i, conv in enumerate(self.stem):
            x = conv(act(x) if i else x)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        if self.final is not None:
            x = act(self.final(x))
        return x.flatten(2).transpose(1, 2)
