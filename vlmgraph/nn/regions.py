"""Regions of a detector as tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .position import LearnedPositions


class RegionEmbedding(nn.Module):
    """x [B, R, d_in] → [B, R, out]: a linear map, a learned type, and a learned position, which is row 0 for every region
    (VisualBERT, arXiv 1908.03557, section 3.2).

    With `words`, rows of a table of positions of words, an alignment [B, R, A] names the words that speak of a region (-1: none): the mean
    of their positions is added.
    """

    def __init__(self, d_in: int, out: int, types: int, default_type: int, max_positions: int, words: int = 0, std: float = 0.02) -> None:
        super().__init__()
        self.default_type, self.std = default_type, std
        self.proj = nn.Linear(d_in, out)
        self.types = nn.Embedding(types, out)
        self.positions = LearnedPositions(max_positions, out, std=std)
        self.words = LearnedPositions(words, out, std=std) if words else None

    def init_weights(self) -> None:
        nn.init.normal_(self.proj.weight, std=self.std)
        nn.init.zeros_(self.proj.bias)
        nn.init.normal_(self.types.weight, std=self.std)

    def forward(self, x: Tensor, types: Tensor | None = None, alignment: Tensor | None = None) -> Tensor:
        x = self.proj(x)
        kinds = torch.full(x.shape[:2], self.default_type, device=x.device) if types is None else types
        x = x + self.types(kinds) + self.positions(torch.zeros(x.shape[:2], dtype=torch.long, device=x.device))
        if alignment is not None and self.words is not None:
            named = (alignment >= 0).to(x.dtype)[..., None]
            x = x + (self.words(alignment.clamp(min=0)) * named).sum(2) / named.sum(2).clamp(min=1)
        return x
