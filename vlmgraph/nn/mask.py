"""Who may attend to whom: boolean masks, True = may, built from rules that hold together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RULES = ("full", "causal", "prefix", "window", "window_2d", "segments", "prefix_or_full", "causal_or_full", "either_real")


def attention_mask(
    rules: tuple[str, ...], queries: int, past: int = 0, padding: Tensor | None = None, prefix: Tensor | None = None,
    segments: Tensor | None = None, window: int = 0, device: torch.device | None = None, places: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """[B or 1, 1, queries, past + queries], or None where all may attend to all.

    causal: keys up to the query. prefix: the same, but tokens of the prefix attend to all of it, whatever `window` says (PaliGemma, arXiv
    2407.07726, section 3.2); `prefix` [B, n <= past + queries], the tokens behind n are not of it. window: keys less than `window`
    places away. window_2d: keys in the query's square, where rows and columns `places` [2, queries] are cut into squares of window x
    window. segments: keys of the query's segment, `segments` [B, queries]. padding [B, past + queries] marks real keys.
    prefix_or_full: as "prefix" where there is a prefix, else all attend to all (AIM, arXiv 2401.08541, section 3.1). causal_or_full: as
    "causal" where there is a padding mask, else all attend to all.
    either_real: padding too attends, to what is real, and is attended by it; two paddings never meet.
    """
    keys = past + queries
    q = torch.arange(past, keys, device=device)[:, None]
    k = torch.arange(keys, device=device)[None]
    allowed: Tensor | None = None
    if "prefix_or_full" in rules and prefix is not None:
        rules = (*rules, "prefix")
    if "causal" in rules or "prefix" in rules or ("causal_or_full" in rules and padding is not None):
        allowed = (k <= q)[None, None]
    if "window" in rules:
        near = ((q - k).abs() < window)[None, None]
        allowed = near if allowed is None else allowed & near
    if "window_2d" in rules and places is not None:
        square = places // window
        near = (square[..., :, None] == square[..., None, :]).all(0)[None, None]
        allowed = near if allowed is None else allowed & near
    if "prefix" in rules and prefix is not None:
        inside = F.pad(prefix.bool(), (0, keys - prefix.shape[1]))
        allowed = allowed | (inside[:, past:, None] & inside[:, None, :])[:, None]  # type: ignore[operator]
    if "segments" in rules and segments is not None:
        same = (segments[:, :, None] == segments[:, None, :])[:, None]
        allowed = same if allowed is None else allowed & same
    if padding is not None:
        real = padding.bool()[:, None, None, :]
        if "either_real" in rules:
            real = real | padding.bool()[:, None, past:, None]
        allowed = real if allowed is None else allowed & real
    return allowed


def safe(mask: Tensor | None) -> Tensor | None:
    """The mask [..., N, K] with rows that may attend to nothing opened to the token itself, so that their softmax is not 0 / 0."""
    if mask is None:
        return None
    queries, keys = mask.shape[-2:]
    place = torch.arange(keys - queries, keys, device=mask.device)  # and no slice, whose length a tracer would not know
    own = place[:, None] == torch.arange(keys, device=mask.device)
    return mask | (own & ~mask.any(-1, keepdim=True))


def with_bias(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """A boolean mask and an additive bias [1, heads, N, K] as one additive mask."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
