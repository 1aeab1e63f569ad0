"""A step of decoding whose shapes never change: all places of a cache enter attention, and where the new token goes is a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...nn.cache import KVCache, LayerCache
from ...nn.mask import with_bias
from ...nn.stack import Stack

ORDERED = frozenset({"full", "causal", "prefix", "prefix_or_full", "causal_or_full", "window"})
"""Rules by which the token of a step attends to what was before it: to all of that, but for the window."""


class Unfit(Exception):
    """Why a step cannot have shapes that never change, or cannot be recorded."""


class FixedLayer(LayerCache):
    """Keys and values [B, heads, places, head_dim]; those of the new token go to `place` [1]."""

    def __init__(self, place: Tensor, held: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.place, self.held = place, held

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        assert self.held is not None
        put(self.held, self.place, k, v)
        return self.held

    def keep(self, state: Tensor, new: int) -> None:
        raise Unfit("a layer sums up the past in a state")


def put(held: tuple[Tensor, Tensor], place: Tensor, k: Tensor, v: Tensor) -> None:
    """Write the keys and values of one token."""
    held[0].index_copy_(2, place, k)
    held[1].index_copy_(2, place, v)


class FixedCache(KVCache):
    """As many places as there will be tokens, of which `mask` [B, places] says those that hold a real one."""

    mask: Tensor

    def __init__(self, source: KVCache, rows: int, places: int, device: torch.device) -> None:
        """Made for what `source` holds, which `load` takes over. Raises Unfit."""
        super().__init__()
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.mask = torch.zeros(rows, places, dtype=torch.bool, device=device)
        for layer in source.layers:
            if layer.k is None or layer.v is None:
                raise Unfit("a layer keeps something else than keys and values")
            self.layers.append(FixedLayer(self.place, (places_of(layer.k, places), places_of(layer.v, places))))
        for name, media in source.media.items():
            self.media[name] = LayerCache()
            self.media[name].put(*(None if part is None else torch.empty_like(part) for part in (media.k, media.v)))
        self.encoded = None if source.encoded is None else torch.empty_like(source.encoded)

    @property
    def length(self) -> int:
        raise Unfit("a module reads its cache in a way of its own")

    def __getitem__(self, layer: int) -> LayerCache:
        if layer >= len(self.layers):
            raise Unfit("a step has a layer that the prompt had not")
        return self.layers[layer]

    def load(self, source: KVCache) -> int:
        """Take over what another cache holds; returns the number of its tokens. Places behind them become zero: what is masked is
        multiplied by a weight of 0, and must be a number."""
        count = source.length
        self.mask.zero_()
        self.mask[:, :count] = True if source.mask is None else source.mask
        for own, layer in zip(self.layers, source.layers, strict=True):
            for held, part in zip(own.held or (), (layer.k, layer.v), strict=True):
                assert part is not None
                held[:, :, :count].copy_(part)
                held[:, :, count:].zero_()
        for name, media in source.media.items():
            for kept, part in zip(self.media[name].grown, media.grown, strict=True):
                if kept is not None and part is not None:
                    kept.copy_(part)
        if self.encoded is not None and source.encoded is not None:
            self.encoded.copy_(source.encoded)
        return count

    def tensors(self) -> list[Tensor]:
        """All that belongs to rows [B, ...]."""
        pairs = [pair for layer in (*self.layers, *self.media.values()) for pair in (layer.held or layer.grown)]
        return [t for t in (self.mask, *pairs, self.encoded) if t is not None]

    def padding(self, mask: Tensor | None, batch: int, new: int, device: torch.device) -> Tensor:
        """`mask` [B, 1] is that of the new token."""
        if new != 1 or (mask is not None and mask.shape[1] != 1):
            raise Unfit("a step has more than one token")
        real = torch.ones(batch, 1, dtype=torch.bool, device=device) if mask is None else mask.bool()
        self.mask.index_copy_(1, self.place, real)
        return self.mask


def places_of(like: Tensor, count: int) -> Tensor:
    return like.new_zeros(*like.shape[:2], count, like.shape[3])


def decode(
    stack: Stack,
    x: Tensor,
    mask: Tensor | None,
    cache: FixedCache,
    positions: Tensor | None = None,
    modality: Tensor | None = None,
    prefix: Tensor | None = None,
    taps: Sequence[int] = (),
    grid: Tensor | None = None,
    router: bool = False,
    **others: Any,
) -> Tensor:
    """`Stack.forward` for one new token x [B, 1, width]. Raises Unfit."""
    if taps or router or grid is not None or x.shape[1:2] != (1,) or (prefix is not None and prefix.shape[1] != 1):
        raise Unfit("more is asked of a stack than its next token")
    media = {name: value for name, value in others.items() if isinstance(value, Tensor)}
    place, real = cache.place, cache.padding(mask, x.shape[0], x.shape[1], x.device)
    if positions is None:
        positions = place[None]
        if stack.position is not None:  # a table is looked up by the number of real tokens
            positions = (real.long().cumsum(1) - 1).index_select(1, place)
    x = stack.enter(x, positions)
    rope = stack.rope(positions) if stack.rope is not None else None
    query, key = place[:, None], torch.arange(real.shape[1], device=x.device)[None]
    scored: Any = stack.bias
    bias = scored.scores(query, key) if scored is not None else None
    masks = {rules: with_bias(allowed(rules, query, key, real, stack.window), bias) for rules in dict.fromkeys(stack.rules)}
    cross, cross_mask = media.get(stack.cross_port), media.get(f"{stack.cross_port}_mask")
    for i, layer in enumerate(stack.layers):
        x = stack.insert("before", i, x, media, cache)
        read = cache.media.setdefault(f"layers.{i}", LayerCache()) if cross is not None else None
        x = layer(x, masks[stack.rules[i]], rope, modality, cache[i], cross, cross_mask, None, read)
        x = stack.insert("after", i, x, media, cache)
    return x if stack.final_norm is None else stack.final_norm(x)


def allowed(rules: tuple[str, ...], query: Tensor, key: Tensor, real: Tensor, window: int) -> Tensor:
    """[B, 1, 1, places]: the real tokens up to the new one, which attends to itself whatever it is."""
    if not ORDERED.issuperset(rules):
        raise Unfit(f"layers attend by {' and '.join(sorted(set(rules) - ORDERED))}")
    seen = real[:, None, None] & (key <= query)
    if "window" in rules:
        seen = seen & (query - key < window)
    return seen | (key == query)
