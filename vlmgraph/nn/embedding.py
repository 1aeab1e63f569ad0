"""Token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable
from .position import LearnedPositions


class UnknownId(ValueError):
    """A token id without a row in the table."""


class TextEmbedding(nn.Module):
    """ids [B, T] → [B, T, width].

    `added` further rows stand in a table of their own, as ids vocab, vocab + 1, ... (trained while the others are frozen). With
    `max_positions` learned positions are added, with `types` a token type (0 where not given); `norm` comes last; `scale` multiplies
    the token vectors.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        added: int = 0,
        max_positions: int = 0,
        offset: int = 0,
        types: int = 0,
        norm: nn.Module | None = None,
        scale: float | None = None,
        std: float = 0.02,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        self.vocab, self.scale, self.std = vocab, scale, std
        self.tokens = nn.Embedding(vocab, width)
        self.added = nn.Embedding(added, width) if added else None
        self.positions = (
            LearnedPositions(max_positions, width, offset, std if position_std is None else position_std) if max_positions else None
        )
        self.types = nn.Embedding(types, width) if types else None
        self.norm = norm

    def init_weights(self) -> None:
        for table in (self.tokens, self.added, self.types):
            if table is not None:
                nn.init.normal_(table.weight, std=self.std)

    def forward(self, ids: Tensor, positions: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """positions and types [B, T]. Raises UnknownId."""
        if readable(ids) and ids.device.type == "cpu" and ids.numel():
            self.check(ids)
        if self.added is None:
            x = self.tokens(ids)
        else:
            own = self.added((ids - self.vocab).clamp(min=0))
            x = torch.where((ids >= self.vocab)[..., None], own, self.tokens(ids.clamp(max=self.vocab - 1)))
        if self.scale is not None:
            x = x * torch.tensor(self.scale, dtype=x.dtype)  # of no device: a number that is rounded as x is
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[-1], device=ids.device)[None] if positions is None else positions)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        return x if self.norm is None else self.norm(x)

    def check(self, ids: Tensor) -> None:
        rows = self.vocab + (0 if self.added is None else self.added.num_embeddings)
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= rows:
            raise UnknownId(f"there is no token {low if low < 0 else high}: the vocabulary has the ids 0 to {rows - 1}")


class TextPositions(nn.Module):
    """Learned positions 0, 1, 2, ... added to tokens x [B, N, width], and a norm behind the sum (BART, arXiv 1910.13461)."""

    def __init__(self, max_positions: int, width: int, offset: int = 0, norm: nn.Module | None = None, std: float = 0.02) -> None:
        super().__init__()
        self.positions = LearnedPositions(max_positions, width, offset, std)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Raises NoPosition."""
        x = x + self.positions(torch.arange(x.shape[1], device=x.device)[None])
        return x if self.norm is None else self.norm(x)
