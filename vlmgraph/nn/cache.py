"""Keys and values kept between the steps of decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, [B, heads, past, head_dim] each; of linear attention the state that sums up the past.

    Growing: each step puts them into a new tensor. With `room` static: the first tokens that come allocate places for themselves and
    `room` more, which later ones are written into; `k` and `v` are views of what is filled.
    """

    def __init__(self, room: int | None = None) -> None:
        self.grown: tuple[Tensor | None, Tensor | None] = (None, None)
        self.state: Tensor | None = None
        self.seen = 0
        self.room = room
        self.held: tuple[Tensor, Tensor] | None = None
        """What a static cache has allocated."""
        self.filled = 0
        """How many of its places are."""

    @property
    def k(self) -> Tensor | None:
        return self.grown[0] if self.held is None else self.held[0][:, :, : self.filled]

    @property
    def v(self) -> Tensor | None:
        return self.grown[1] if self.held is None else self.held[1][:, :, : self.filled]

    @property
    def length(self) -> int:
        """How many tokens it has keys of."""
        return self.filled if self.grown[0] is None else self.grown[0].shape[2]

    def put(self, k: Tensor | None, v: Tensor | None) -> None:
        """Keys and values of all tokens there are: of a growing cache, and of media."""
        self.grown = (k, v)

    def keep(self, state: Tensor, new: int) -> None:
        """The state [B, heads, head_dim, head_dim] after `new` more tokens."""
        self.state, self.seen = state, self.seen + new

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values behind the past ones; returns all of them. Raises ValueError where a static cache is full."""
        if self.room is None:
            old_k, old_v = self.grown
            k, v = k if old_k is None else torch.cat([old_k, k], dim=2), v if old_v is None else torch.cat([old_v, v], dim=2)
            self.grown = (k, v)
            return k, v
        end = self.filled + k.shape[2]
        if self.held is None:
            self.held = (places(k, end + self.room), places(v, end + self.room))
        if end > self.held[0].shape[2]:
            raise ValueError(f"the static cache has {self.held[0].shape[2]} places and is asked for {end}")
        self.held[0][:, :, self.filled : end] = k
        self.held[1][:, :, self.filled : end] = v
        self.filled = end
        return self.held[0][:, :, :end], self.held[1][:, :, :end]

    def reorder(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` [B']. A static cache stays where it is, unless B' is another number."""
        if self.state is not None:
            self.state = self.state[rows]
        k, v = self.k, self.v
        if k is None or v is None:
            return
        k, v = k[rows], v[rows]
        if self.held is None:
            self.grown = (k, v)
            return
        if len(rows) != len(self.held[0]):
            self.held = (places(k, self.held[0].shape[2]), places(v, self.held[1].shape[2]))
        self.held[0][:, :, : self.filled] = k
        self.held[1][:, :, : self.filled] = v


def places(like: Tensor, count: int) -> Tensor:
    """An empty [B, heads, count, head_dim]."""
    return like.new_empty(*like.shape[:2], count, like.shape[3])


class KVCache:
    """One `LayerCache` a layer, made when first asked for, and the padding mask of the past tokens. With `room` they are static.

    `media` are those of layers and inserted blocks that read media, `layers.<i>` or group and layer: keys and values of media are made
    once and stay. `encoded` is what the encoder of an encoder-decoder model made.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.layers: list[LayerCache] = []
        self.media: dict[str, LayerCache] = {}
        self.mask: Tensor | None = None
        self.encoded: Tensor | None = None

    def __getitem__(self, layer: int) -> LayerCache:
        while len(self.layers) <= layer:
            self.layers.append(LayerCache(self.room))
        return self.layers[layer]

    @property
    def length(self) -> int:
        """Number of past tokens."""
        kept = next((n for layer in self.layers if (n := layer.length)), 0)
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
            layer.reorder(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        self.encoded = None if self.encoded is None else self.encoded[rows]
