"""Attention of some tokens to others, standing by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import CrossAttention


class KeyValueAttention(CrossAttention):
    """Queries from x [B, Q, d], keys from media [B, M, d_media], values from `values` [B, M, d_media], or from the media too → [B, Q, d].

    A query that may attend to nothing gets zero, before the bias of the output projection.
    """

    def __init__(self, d: int, d_media: int, heads: int, bias: bool = True) -> None:
        super().__init__(d, d_media, heads, bias="qkvo" if bias else "")

    def init_weights(self) -> None:
        """As torch's own attention begins: queries, keys and values as one Xavier-uniform matrix, no bias."""
        rows = sum(layer.out_features for layer in (self.q, self.k, self.v))
        for layer in (self.q, self.k, self.v):
            bound = (6 / (layer.in_features + rows)) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        for layer in (self.q, self.k, self.v, self.out):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(  # type: ignore[override]
        self, x: Tensor, media: Tensor, values: Tensor | None = None, media_mask: Tensor | None = None
    ) -> Tensor:
        """media_mask [B, M] or [B, Q, M], True = may attend."""
        q, k = self.heads_of(self.q(x)), self.heads_of(self.k(media))
        v = self.heads_of(self.v(media if values is None else values))
        if media_mask is None:
            return self.out(self.attend(q, k, v, None))
        mask = media_mask.bool()
        mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        some = mask.any(-1)  # [B, 1, Q or 1]
        y = self.attend(q, k, v, mask | ~some[..., None])
        return self.out(torch.where(some.transpose(1, 2), y, 0.0))
