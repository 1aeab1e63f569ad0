"""A layer's cache as a compiled block sees it: tensors in, tensors out, and no object that outlives the call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...nn.cache import LayerCache
from ..generate.fixed import FixedLayer, put


class Given(NamedTuple):
    """What a compiled block is given for a cache: keys, values and state so far; of a static cache the places and how many are filled."""

    k: Tensor | None
    v: Tensor | None
    state: Tensor | None
    places: tuple[Tensor, Tensor] | None
    past: int | Tensor
    """A tensor [1] where all places enter attention."""


class Made(NamedTuple):
    """What it gives back: keys and values of a growing cache, the state, and how many tokens were added."""

    k: Tensor | None
    v: Tensor | None
    state: Tensor | None
    new: int


class TracedCache:
    """Stands for a `LayerCache` inside a compiled block. Static places are written where they are; all else leaves as outputs."""

    k: Tensor | None
    v: Tensor | None

    def __init__(self, given: Given) -> None:
        self.k, self.v, self.state, self.places, self.past = given
        self.new = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.new = k.shape[2]
        if self.places is None:
            self.k = k.contiguous() if self.k is None else torch.cat([self.k, k], dim=2)  # one layout, else a form of its own
            self.v = v.contiguous() if self.v is None else torch.cat([self.v, v], dim=2)
            return self.k, self.v
        if isinstance(self.past, Tensor):
            put(self.places, self.past, k, v)
            return self.places
        end = self.past + self.new
        self.places[0][:, :, self.past : end] = k
        self.places[1][:, :, self.past : end] = v
        return self.places[0][:, :, :end], self.places[1][:, :, :end]

    def put(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def keep(self, state: Tensor, new: int) -> None:
        self.state, self.new = state, new


def enter(cache: LayerCache) -> Given:
    if cache.held is not None:
        return Given(None, None, cache.state, cache.held, cache.place if isinstance(cache, FixedLayer) else cache.filled)
    return Given(*cache.grown, cache.state, None, 0)


def leave(traced: TracedCache) -> Made:
    if traced.places is not None:
        return Made(None, None, traced.state, traced.new)
    return Made(traced.k, traced.v, traced.state, traced.new)


def update(cache: LayerCache, given: Given, made: Made) -> None:
    """Bring a cache up to date with what a block made of it."""
    if isinstance(given.past, Tensor):
        return
    if given.places is not None:
        cache.filled = given.past + made.new
    elif made.new and made.k is not None and made.v is not None and cache.room is not None:
        cache.append(made.k, made.v)  # the first tokens of a static cache, which allocates its places
    else:
        cache.put(made.k, made.v)
    if made.state is not None and made.new and made.k is None and given.places is None:
        cache.keep(made.state, made.new)


def full(given: Given, new: int) -> bool:
    """Whether a static cache has no place for so many more tokens."""
    return given.places is not None and not isinstance(given.past, Tensor) and given.past + new > given.places[0].shape[2]
