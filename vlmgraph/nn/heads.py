"""Projections to a vocabulary or to classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LMHead(nn.Module):
    """States [..., width] → logits [..., vocab + added]; the `added` last ones have weights of their own.

    scale multiplies the logits; soft_cap c bounds them smoothly: c * tanh(logits / c) (Gemma 2, arXiv 2408.00118).
    """

    def __init__(
        self, width: int, vocab: int, bias: bool = False, scale: float | None = None, soft_cap: float | None = None, added: int = 0
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(width, vocab, bias=bias)
        self.added = nn.Linear(width, added, bias=bias) if added else None
        self.scale, self.soft_cap = scale, soft_cap

    def forward(self, x: Tensor) -> Tensor:
        logits = self.proj(x)
        if self.added is not None:
            logits = torch.cat([logits, self.added(x)], dim=-1)
        if self.scale is not None:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


class MLMHead(nn.Module):
    """BERT's masked-word head: dense → act → norm → decoder with bias: [..., width] → [..., vocab] (arXiv 1810.04805)."""

    def __init__(self, width: int, vocab: int, act: nn.Module, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.act = act
        self.norm = nn.LayerNorm(width, eps=eps)
        self.decoder = nn.Linear(width, vocab)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(self.act(self.dense(x))))
