"""Normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """torch's own, with the name of its input that every component's default port has: x [..., d] → [..., d]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, computed in float32 (arXiv 1910.07467): [..., d] → [..., d].

    `offset` is added to the weight, which then starts at 1 - offset (Gemma stores weight - 1).
    """

    def __init__(self, width: int, eps: float = 1e-6, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.offset:
            return (y * (self.weight.float() + self.offset)).to(x.dtype)
        return self.weight * y.to(x.dtype)
