"""Weights as codes and scales, and back.

int8: symmetric, a scale for each row, the same numbers as torchao's Int8WeightOnlyConfig. int4: symmetric in groups of 32 along a row, a
bfloat16 scale each, chosen for the least squares of the error.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 32
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Scales tried for int4, as shares of the one that holds the largest weight."""
CHUNK = 1 << 18
"""Weights quantised at once: few enough that what is tried stays in the caches."""


def packed(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """[n, k] → codes int8 [n, k] and scales float32 [n], or of 4 bits uint8 [n, ceil(k / 32) * 16] and bfloat16 [n, ceil(k / 32)]."""
    rows = max(1, CHUNK // max(weight.shape[1], 1))
    parts = [(int8 if bits == 8 else int4)(part.detach().float()) for part in weight.split(rows)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scale for _, scale in parts])


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = (weight.abs().amax(1) / 127.5).clamp_min(torch.finfo(torch.float32).eps)
    return (weight / scale[:, None]).round().clamp(-128, 127).to(torch.int8), scale


def int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    low, high = groups.amin(2), groups.amax(2)
    extreme = torch.where(high > -low, high, low)  # -8 holds the largest, of either sign
    best = torch.full_like(extreme, torch.inf)
    chosen, codes = torch.zeros_like(extreme), torch.zeros_like(groups)
    for share in SHARES:
        scale = (extreme * (share / -8)).bfloat16().float()
        tried = (groups / torch.where(scale == 0, 1, scale)[..., None]).round().clamp(-8, 7)
        error = (tried * scale[..., None] - groups).square().sum(2)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
        codes = torch.where(better[..., None], tried, codes)
    flat = (codes + 8).to(torch.uint8).flatten(1)
    return flat[:, 0::2] | flat[:, 1::2] << 4, chosen.bfloat16()


def unpacked(codes: Tensor, scale: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """The weights [..., k] that codes stand for; leading dims are free."""
    if codes.dtype == torch.int8:
        return (codes.float() * scale[..., None]).to(dtype)
    halves = torch.stack([codes & 15, codes >> 4], -1).flatten(-2).float() - 8
    return (halves.unflatten(-1, (-1, GROUP)) * scale[..., None].float()).flatten(-2)[..., :k].to(dtype)
