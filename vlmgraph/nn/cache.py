"""Keys and values kept between the steps of decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, [B, heads, past, head_dim] each; of linear attention the state that sums up the past."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.state: Tensor | None = None
        self.seen = 0

    def keep(self, state: Tensor, new: int) -> None:
        """The state [B, heads, head_dim, head_dim] after `new` more tokens."""
        self.state, self.seen = state, self.seen + new

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values behind the past ones; returns all of them."""
        self.k = k if self.k is None else torch.cat([self.k, k], dim=2)
        self.v = v if self.v is None else torch.cat([self.v, v], dim=2)
        return self.k, self.v


class KVCache:
    """One `LayerCache` a layer, made when first asked for, and the padding mask of the past tokens.

    `media` are those of inserted blocks, by group and layer: keys and values of media are made once and stay.
    """

    def __init__(self) -> None:
        self.layers: list[LayerCache] = []
        self.media: dict[str, LayerCache] = {}
        self.mask: Tensor | None = None

    def __getitem__(self, layer: int) -> LayerCache:
        while len(self.layers) <= layer:
            self.layers.append(LayerCache())
        return self.layers[layer]

    @property
    def length(self) -> int:
        """Number of past tokens."""
        kept = next((layer.k.shape[2] for layer in self.layers if layer.k is not None), 0)
        return kept or max((layer.seen for layer in self.layers), default=0)

    def padding(self, mask: Tensor | None, batch: int, new: int, device: torch.device) -> Tensor | None:
        """The mask over past and new tokens, [B, past + new]. `mask` is that of all tokens or of the new ones; None: all real."""
        past = self.length
        if mask is None and self.mask is None:
            return None
        whole = None if mask is None else mask.bool()
        if whole is None or whole.shape[1] != past + new:
            old = self.mask if self.mask is not None else torch.ones(batch, past, dtype=torch.bool, device=device)
            latest = whole if whole is not None else torch.ones(batch, new, dtype=torch.bool, device=device)
            whole = torch.cat([old, latest], dim=1)
        self.mask = whole
        return whole

    def reorder(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` [B'], repeated where beams split."""
        for layer in (*self.layers, *self.media.values()):
            if layer.k is not None and layer.v is not None:
                layer.k, layer.v = layer.k[rows], layer.v[rows]
            if layer.state is not None:
                layer.state = layer.state[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]
