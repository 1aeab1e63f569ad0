"""Tokens times a number."""

from __future__ import annotations

from torch import Tensor, nn


class Scale(nn.Module):
    """[..., d] times `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
