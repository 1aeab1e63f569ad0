"""Rotary position embedding: rotations computed from positions, in float32, nothing stored (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .rope_scaling import RULES, dynamic, ramped, rescaled, slowed

Rotation = tuple[Tensor, Tensor]
"""cos and sin, [B, N, d] each; d may be smaller than the head: the rest of the head is not rotated."""


def frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    """theta ** (-2i / dim), [dim / 2]."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim)


def rotation(angles: Tensor, interleaved: bool = False, scale: float = 1.0) -> Rotation:
    """Angles [..., d / 2] of the pairs → cos and sin [..., d], times `scale`: pairs are (i, i + d / 2), or (2i, 2i + 1) if interleaved."""
    angles = angles.repeat_interleave(2, -1) if interleaved else torch.cat([angles, angles], dim=-1)
    if scale != 1.0:
        return angles.cos() * scale, angles.sin() * scale
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rotation, interleaved: bool = False) -> Tensor:
    """Turn queries or keys [B, heads, N, head_dim]."""
    cos, sin = (part[:, None].to(x.dtype) for part in rope)
    d = cos.shape[-1]
    turned, kept = x[..., :d], x[..., d:]
    if interleaved:
        other = torch.stack([-turned[..., 1::2], turned[..., 0::2]], dim=-1).flatten(-2)
    else:
        other = torch.cat([-turned[..., d // 2 :], turned[..., : d // 2]], dim=-1)
    turned = turned * cos + other * sin
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


class RoPE(nn.Module):
    """Positions [B, N] → rotation of the first `dim` values of every head.

    `scaling` says how contexts beyond the `original` length are reached (`rope_scaling.py`): None, "linear", "dynamic", "llama3", "yarn" or
    "longrope". What depends on the length of a call follows its largest position. `attention` is a factor on queries and keys alike.
    """

    def __init__(
        self,
        dim: int,
        theta: float = 10000.0,
        interleaved: bool = False,
        scaling: str | None = None,
        factor: float = 1.0,
        low: float = 1.0,
        high: float = 4.0,
        original: int = 8192,
        attention: float = 1.0,
        short: tuple[float, ...] = (),
        long: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        if scaling not in (None, *RULES):
            raise ValueError(f"there is no rope scaling {scaling!r}; there are {', '.join(RULES)}")
        if scaling == "longrope" and not len(short) == len(long) == dim // 2:
            raise ValueError(f"longrope needs a factor for each of the {dim // 2} pairs, not {len(short)} and {len(long)}")
        self.dim, self.theta, self.interleaved, self.attention = dim, theta, interleaved, attention
        self.scaling, self.factor, self.low, self.high, self.original = scaling, factor, low, high, original
        self.short, self.long = tuple(short), tuple(long)

    def angles(self, positions: Tensor) -> Tensor:
        """[..., N] → [..., N, dim / 2]."""
        inverse = frequencies(self.dim, self.theta, positions.device)
        if self.scaling == "linear":
            inverse = inverse / self.factor
        elif self.scaling == "dynamic":
            inverse = dynamic(self.dim, self.theta, self.factor, self.original, positions)
        elif self.scaling == "llama3":
            inverse = slowed(inverse, self.factor, self.low, self.high, self.original)
        elif self.scaling == "yarn":
            inverse = ramped(inverse, self.factor, self.low, self.high)
        elif self.scaling == "longrope":
            inverse = rescaled(inverse, self.short, self.long, self.original, positions)
        return positions[..., None].float() * inverse

    def forward(self, positions: Tensor) -> Rotation:
        return rotation(self.angles(positions), self.interleaved, self.attention)


class MRoPE(RoPE):
    """Three positions a token: frequencies are dealt out to time, height and width (Qwen2-VL, arXiv 2409.12191, section 2.1)."""

    def __init__(self, dim: int, sections: tuple[int, ...], theta: float = 10000.0, **scaling: Any) -> None:
        super().__init__(dim, theta, **scaling)
        if 2 * sum(sections) != dim:
            raise ValueError(f"sections {list(sections)} add up to {sum(sections)}, not to half of {dim}")
        self.sections = tuple(sections)

    def forward(self, positions: Tensor) -> Rotation:
        """[3, B, N], or [B, N] where all three are equal."""
        if positions.dim() == 2:
            return super().forward(positions)
        angles = self.angles(positions).split(self.sections, dim=-1)
        return rotation(torch.cat([part[i] for i, part in enumerate(angles)], dim=-1), scale=self.attention)


class RoPE2D(nn.Module):
    """Rows [2, B, N]: half of the pairs of a head turn with the row of a patch, half with its column.

    split "shared": both halves have the frequencies of a head half as wide (Qwen2-VL vision tower). "alternate": of the frequencies of the
    whole head the even ones go to the row, the odd ones to the column (Pixtral, arXiv 2410.07073, section 2.1).
    """

    def __init__(self, dim: int, theta: float = 10000.0, split: str = "shared") -> None:
        super().__init__()
        self.dim, self.theta, self.split = dim, theta, split

    def forward(self, positions: Tensor) -> Rotation:
        if self.split == "alternate":
            whole = frequencies(self.dim, self.theta, positions.device)
            down, across = whole[0::2], whole[1::2]
        else:
            down = frequencies(self.dim // 2, self.theta, positions.device)
            across = down
        row, column = positions[..., None].float().unbind(0)
        return rotation(torch.cat([row * down, column * across], dim=-1))


def grid_places(grid: Tensor, count: int, merge: int | Tensor = 1) -> tuple[Tensor, Tensor]:
    """Where every packed patch stands: (row, column) [2, P] and the number of its frame [P], counted over all images.

    grid [n, 3] holds frames, rows and columns of patches. Within a frame patches come in blocks of merge x merge, block after block;
    `merge` [n] has a side for each image. `count` is P, the number of patches.
    """
    frames, rows, columns = (grid[:, i].long() for i in range(3))
    stops = (frames * rows * columns).cumsum(0)
    place = torch.arange(count, device=grid.device)
    image = torch.searchsorted(stops, place, right=True).clamp(max=grid.shape[0] - 1)
    place = place - (stops - frames * rows * columns)[image]
    if isinstance(merge, Tensor):
        merge = merge.long()[image]
    area, wide = (rows * columns)[image], columns[image] // merge
    frame = frames.cumsum(0)[image] - frames[image] + place // area
    block, inner = place % area // merge**2, place % area % merge**2
    row = block // wide * merge + inner // merge
    column = block % wide * merge + inner % merge
    return torch.stack([row, column]), frame
