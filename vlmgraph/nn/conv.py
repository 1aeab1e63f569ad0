"""Convolutions over a square grid of tokens, and a branch that a learned number lets in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GridConvLayer(nn.Module):
    """x [B, d_in, rows, columns] → [B, out, rows / stride, columns / stride]."""

    def __init__(
        self, d_in: int, out: int, kernel: int = 3, stride: int = 1, bias: bool = True, norm: nn.Module | None = None,
        act: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(d_in, out, kernel, stride, kernel // 2, bias=bias)
        self.norm, self.act = norm, act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x if self.act is None else self.act(x)


class GridConv(nn.Module):
    """Convolutions one after another, each with an optional norm and activation behind it: [B, N, d_in] → [B, N / strides^2, out].

    Tokens are those of a square grid, rows first. A kernel of k stands on the token in its middle: borders of k // 2 are zeros. Norms act
    on the channels of every token by itself.
    """

    def __init__(self, layers: Sequence[GridConvLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        side = round(x.shape[1] ** 0.5)
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        for layer in self.layers:
            grid = layer(grid)
        return grid.flatten(2).transpose(1, 2)


class GatedAdd(nn.Module):
    """x + gate * branch, both [..., d], with a learned number that starts at `init`: at zero the branch is switched off at first."""

    def __init__(self, init: float = 0.0) -> None:
        super().__init__()
        self.init = init
        self.gate = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gate, self.init)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + self.gate.to(x.dtype) * branch
