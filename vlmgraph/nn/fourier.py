"""Numbers as vectors: Fourier features with learned frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Fourier(nn.Module):
    """x [..., inputs] → [cos(2 pi x w), sin(2 pi x w)] → [..., out] by one linear map (Fourier features, arXiv 2006.10739).

    `frequencies` is w [inputs, features / 2], N(0, 1) at first.
    """

    def __init__(self, inputs: int, features: int, out: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.empty(inputs, features // 2))
        self.proj = nn.Linear(features, out)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.frequencies)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * x.to(self.frequencies.dtype) @ self.frequencies
        return self.proj(torch.cat([angles.cos(), angles.sin()], dim=-1))
