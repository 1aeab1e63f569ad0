"""Masks out of indices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .splice import is_token


class Match(nn.Module):
    """True where an index is one of `values`: [...] → [...]."""

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__()
        self.values = tuple(values)

    def forward(self, x: Tensor) -> Tensor:
        return is_token(x, self.values)
