"""Shape steps between components."""

from __future__ import annotations

from torch import Tensor


def unfold_like(x: Tensor, like: Tensor, count: int) -> Tensor:
    """Split the first dim into the first `count` dims of `like`: [B*M, ...] -> [B, M, ...]."""
    return x.unflatten(0, like.shape[:count])


def slice_tokens(x: Tensor, axis: int, start: int | None, stop: int | None) -> Tensor:
    """`x[..., start:stop, ...]` along `axis`."""
    index = [slice(None)] * x.dim()
    index[axis] = slice(start, stop)
    return x[tuple(index)]
