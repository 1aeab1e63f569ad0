"""Losses on the scores of routers: experts of equal load, scores that stay small."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LoadBalance(nn.Module):
    """E / k * sum over experts of (share of the tokens that chose it) * (mean score), summed over layers: router [L, B, N, E] → [].

    Least, and equal to L, where all experts have the same load (Switch Transformer, arXiv 2101.03961, section 2.2, with `top_k` choices a
    token). per "sequence": of every sample by itself, then averaged (DeepSeek-V2, arXiv 2405.04434, section 2.2.3); "batch": over all of
    its tokens. mask [B, N] says which tokens count.
    """

    def __init__(self, top_k: int, per: str = "batch", score: str = "softmax") -> None:
        super().__init__()
        self.top_k, self.per, self.score = top_k, per, score

    def forward(self, router: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = router.float()
        odds = scores.softmax(-1) if self.score == "softmax" else scores.sigmoid()
        chosen = torch.zeros_like(odds).scatter(-1, scores.topk(self.top_k, dim=-1).indices, 1.0)
        real = torch.ones_like(odds[0, ..., 0]) if mask is None else mask.to(odds.dtype)
        dims = 2 if self.per == "sequence" else (1, 2)
        count = real.sum(-1 if self.per == "sequence" else None)[..., None].clamp(min=1)
        load, mean = ((x * real[..., None]).sum(dims) / count for x in (chosen, odds))  # [L, B, E] or [L, E]
        each = (load * mean).sum(-1) * (router.shape[-1] / self.top_k)
        return (each.mean(1) if self.per == "sequence" else each).sum()


class RouterZ(nn.Module):
    """Mean over tokens of logsumexp(scores)^2, summed over layers: router [L, B, N, E] → [] (ST-MoE, arXiv 2202.08906, section 3.2).

    mask [B, N] says which tokens count.
    """

    def forward(self, router: Tensor, mask: Tensor | None = None) -> Tensor:
        squares = router.float().logsumexp(-1).square()  # [L, B, N]
        if mask is None:
            return squares.mean((1, 2)).sum()
        real = mask.to(squares.dtype)
        return (squares * real).sum() / real.sum().clamp(min=1)
