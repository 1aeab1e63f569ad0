"""Tokens with a mask of their own."""

from __future__ import annotations

from torch import Tensor, nn


class Masked(nn.Module):
    """The tokens as they are: whoever reads them reads the mask [B, N] too."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x
