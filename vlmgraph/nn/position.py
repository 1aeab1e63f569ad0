"""Positions that are added: to the tokens (learned tables) or to the attention scores (T5's buckets, ALiBi)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .eager import readable


class NoPosition(ValueError):
    """A token behind the last row of a table of positions."""


class LearnedPositions(nn.Module):
    """A table looked up by position: [B, N] → [B, N, width]. `offset` rows in front are not used by position 0 (OPT: 2)."""

    def __init__(self, count: int, width: int, offset: int = 0, std: float = 0.02) -> None:
        super().__init__()
        self.offset, self.std = offset, std
        self.weight = nn.Parameter(torch.empty(count + offset, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, positions: Tensor) -> Tensor:
        """Raises NoPosition."""
        rows = len(self.weight) - self.offset
        if readable(positions) and positions.device.type == "cpu" and positions.numel() and int(positions.max()) >= rows:
            raise NoPosition(f"a token stands at position {int(positions.max())}: the table has the positions 0 to {rows - 1}")
        return F.embedding((positions + self.offset).clamp(min=0), self.weight)


class ImagePositions(nn.Module):
    """One row a patch of a rows x columns image, behind `prefix` rows for class and register tokens: x [B, N, width] → x + table.

    A different number of patches stretches the patch rows bicubically (ViT, arXiv 2010.11929, section 3.2).
    """

    def __init__(self, rows: int, columns: int, width: int, prefix: int = 0, std: float = 0.02) -> None:
        super().__init__()
        self.rows, self.columns, self.prefix, self.std = rows, columns, prefix, std
        self.weight = nn.Parameter(torch.empty(prefix + rows * columns, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=self.std)

    def forward(self, x: Tensor, rows: int, columns: int, mask: Tensor | None = None) -> Tensor:
        """A mask of the patches changes nothing: padding has a place too."""
        return x + self.table(rows, columns).to(x.dtype)

    def table(self, rows: int, columns: int) -> Tensor:
        """[prefix + rows * columns, width]."""
        if (rows, columns) == (self.rows, self.columns):
            return self.weight
        grid = self.weight[self.prefix :].unflatten(0, (self.rows, self.columns)).permute(2, 0, 1)[None]
        grid = F.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.weight[: self.prefix], grid[0].flatten(1).T.to(self.weight.dtype)])


class FractionalPositions(nn.Module):
    """A table of side x side rows, looked up by the fraction of an image's rows and columns at which a patch stands: x [B, N, width] →
    x + rows of the table (NaViT, arXiv 2307.06304, section 2.1).

    Patch i of n reads row floor(side * i / n). `mask` [B, rows * columns] says which patches are of an image, whose upper left corner is
    that of the grid: its first row and column tell how many there are. Padding reads row 0.
    """

    def __init__(self, side: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.side, self.std = side, std
        self.bounds = torch.arange(1 / side, 1.0, 1 / side, device="cpu").tolist()  # as rounded: how many there are depends on it
        self.weight = nn.Parameter(torch.empty(side * side, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=self.std)

    def forward(self, x: Tensor, rows: int, columns: int, mask: Tensor | None = None) -> Tensor:
        return x + F.embedding(self.places(rows, columns, mask, x.device), self.weight).to(x.dtype)

    def places(self, rows: int, columns: int, mask: Tensor | None, device: torch.device) -> Tensor:
        """Row of the table of each patch, [B or 1, rows * columns]."""
        real = torch.ones(1, rows, columns, dtype=torch.bool, device=device)
        if mask is not None:
            real = mask.bool().unflatten(1, (rows, columns))
        row, column = self.buckets(rows, real[:, :, 0].sum(1)), self.buckets(columns, real[:, 0].sum(1))
        return ((row[:, :, None] * self.side + column[:, None]) * real).flatten(1)

    def buckets(self, count: int, real: Tensor) -> Tensor:
        """Places 0 to count - 1, of which the first `real` [B] are an image's → [B, count], from 0 to side - 1.

        Fractions are compared in single precision, as weights were trained with: by whole numbers a few patches would land elsewhere.
        """
        fraction = torch.arange(count, dtype=torch.float32, device=real.device) * (1.0 / real.clamp(min=1))[:, None]
        bounds = torch.tensor(self.bounds, dtype=torch.float32, device=real.device)
        return torch.bucketize(fraction.clamp(max=1.0 - 1e-6), bounds, right=True)


class RelativeBias(nn.Module):
    """T5's learned score of every (bucketed) distance: [1, heads, N, past + N] (arXiv 1910.10683, section 2.1).

    Half of the buckets are exact distances, the others grow logarithmically up to `distance`; both directions have their own half.
    """

    def __init__(self, heads: int, buckets: int = 32, distance: int = 128, bidirectional: bool = True, std: float = 0.02) -> None:
        super().__init__()
        self.buckets, self.distance, self.bidirectional, self.std = buckets, distance, bidirectional, std
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, count: int, past: int = 0, device: torch.device | None = None) -> Tensor:
        query = torch.arange(past, past + count, device=device)[:, None]
        key = torch.arange(past + count, device=device)[None]
        return self.scores(query, key)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Places [N, 1] and [1, K] → [1, heads, N, K]."""
        return F.embedding(self.bucket(key - query), self.weight).permute(2, 0, 1)[None]

    def bucket(self, distance: Tensor) -> Tensor:
        """key - query → row of the table."""
        count, start = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            start = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.distance / exact) * (count - exact)
        return start + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=count - 1))


class ALiBi(nn.Module):
    """A penalty that grows with distance, with its own slope a head: [1, heads, N, past + N] (arXiv 2108.12409). No parameters."""

    def __init__(self, heads: int, largest: float = 8.0) -> None:
        super().__init__()
        self.heads, self.largest = heads, largest

    def forward(self, count: int, past: int = 0, device: torch.device | None = None) -> Tensor:
        query = torch.arange(past, past + count, device=device)[:, None]
        key = torch.arange(past + count, device=device)[None]
        return self.scores(query, key)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Places [N, 1] and [1, K] → [1, heads, N, K]."""
        power = 2 ** math.ceil(math.log2(self.heads))
        slopes = 2.0 ** -(torch.arange(1, power + 1, device=key.device) * (self.largest / power))
        if power != self.heads:  # every second slope first, as the reference fills up to a power of two
            slopes = torch.cat([slopes[1::2], slopes[0::2]])[: self.heads]
        return -slopes[None, :, None, None] * (query - key).abs()
