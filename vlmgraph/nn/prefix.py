"""The prefix of a sequence, and joined sequences taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .splice import is_token


class PrefixMask(nn.Module):
    """Which tokens are of the prefix: x [B, N, d] → bool [B, N], True for the first `length` [B] of each sample.

    Without lengths one is drawn for each sample, uniform over 1 to N - 1 (AIM, arXiv 2401.08541, section 3.1).
    """

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        count = x.shape[1]
        if length is None:
            length = torch.randint(1, max(count, 2), (x.shape[0],), device=x.device)
        return torch.arange(count, device=x.device)[None] < length[:, None]


class Split(nn.Module):
    """Joined tokens taken apart again: x [B, P + T, d], first [B, P, ...], second [B, T, ...] → `first` [B, P, d], `second` [B, T, d]."""

    def forward(self, x: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> dict[str, Tensor]:
        """What is not given has no part in x."""
        at = x.shape[1] if first is not None and second is None else 0 if first is None else first.shape[1]
        return {"first": x[:, :at], "second": x[:, at:]}


class PrefixTo(nn.Module):
    """ids [B, T] → bool [B, T], True up to the last of `token` in each sample; nothing where there is none."""

    def __init__(self, token: Sequence[int]) -> None:
        super().__init__()
        self.token = tuple(token)

    def forward(self, ids: Tensor) -> Tensor:
        return is_token(ids, self.token).flip(1).long().cumsum(1).flip(1) > 0
