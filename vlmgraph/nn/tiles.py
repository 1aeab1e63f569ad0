"""A vision transformer over the tiles of an image, which attend to one another (Llama 3.2-Vision, arXiv 2407.21783, section 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import Gate
from .eager import readable
from .stack import Stack


class NoArrangement(ValueError):
    """An image without the number of its arrangement of tiles, or with one that there is no row for."""


def arrangement(aspect: Tensor | None, rows: int) -> Tensor:
    """`aspect` itself, where every image has a number below `rows`. Raises NoArrangement."""
    if aspect is None:
        raise NoArrangement("images in tiles come with the numbers of their arrangements: 1 is the first, 0 no image")
    if readable(aspect) and aspect.device.type == "cpu" and aspect.numel() and not 0 <= int(aspect.min()) <= int(aspect.max()) < rows:
        raise NoArrangement(f"an arrangement of tiles is a number from 0 to {rows - 1}, not {aspect.flatten().tolist()[:8]}")
    return aspect


class TileEmbedding(nn.Module):
    """Tells the tiles of an image apart: x [B, tiles * n, width] plus tanh(gate) times a vector for each tile of each arrangement.

    Row 0 is that of images that are not there. The gate is zero at first.
    """

    def __init__(self, tiles: int, aspects: int, width: int) -> None:
        super().__init__()
        self.tiles, self.width = tiles, width
        self.gate = Gate()
        self.table = nn.Parameter(torch.empty(aspects + 1, tiles * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=self.width**-0.5)

    def forward(self, x: Tensor, aspect: Tensor | None = None) -> Tensor:
        """aspect [B], the number of the arrangement. Raises NoArrangement."""
        own = F.embedding(arrangement(aspect, len(self.table)), self.table).unflatten(1, (self.tiles, 1, self.width))
        return (x.unflatten(1, (self.tiles, -1)) + self.gate(own)).flatten(1, 2)


class TilePositions(nn.Module):
    """Positions of the `count` tokens of a tile: x [B, tiles, count, width] plus (1 - tanh g) times a row that all tiles share plus tanh g
    times one that the tile has in its arrangement. g is zero at first."""

    def __init__(self, tiles: int, aspects: int, count: int, width: int) -> None:
        super().__init__()
        self.count, self.width, self.split = count, width, (tiles, count, width)
        self.gate = Gate()
        self.weight = nn.Parameter(torch.empty(count, width))
        self.tiles = nn.Parameter(torch.empty(aspects + 1, tiles * count * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.weight, self.tiles):
            nn.init.normal_(table, std=self.width**-0.5)

    def forward(self, x: Tensor, aspect: Tensor) -> Tensor:
        """aspect [B], the number of the arrangement."""
        own = F.embedding(aspect, self.tiles).unflatten(1, self.split)
        return x + (1 - self.gate.weight.tanh()) * self.weight + self.gate(own)


class Take(nn.Module):
    """Tokens at given places: x [B, N, d], places [B, K, n] → [B, K, n, d]."""

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        return x[torch.arange(x.shape[0], device=x.device)[:, None, None], places]


class TiledVisionTransformer(Stack):
    """x: image [B, tiles, 3, H, W] → tokens [B, tiles * padded, width], their mask, and `real`, the places of the real ones in it by tile,
    [B, tiles, count].

    A tile has a class token and its patches; zeros fill it up to `padded` tokens, which go through all layers. They and the tokens of
    tiles that are not there count as padding; who attends to whom is up to the stack's rules. `arrangements` are the (rows, columns) of
    tiles by number, from 1.
    """

    def __init__(
        self,
        patch: nn.Module,
        layers: Sequence[nn.Module],
        width: int,
        arrangements: Sequence[tuple[int, int]],
        tiles: int,
        count: int,
        padded: int,
        pre_norm: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(layers, **options)
        self.patch = patch
        self.width, self.count, self.padded = width, count, padded
        self.cls = nn.Parameter(torch.empty(width))
        self.tile = TileEmbedding(tiles, len(arrangements), width)
        self.position = TilePositions(tiles, len(arrangements), count, width)
        self.pre_norm = pre_norm
        self.areas = (1, *(min(rows * columns, tiles) for rows, columns in arrangements))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls, std=self.width**-0.5)

    def forward(  # type: ignore[override]
        self, x: Tensor, aspect: Tensor | None = None, mask: Tensor | None = None, taps: Sequence[int] = (), until: bool = False
    ) -> dict[str, Tensor]:
        """aspect [B], the number of each image's arrangement; mask [B, tiles], which tiles are there: those of the arrangement where it is
        left out. Raises NoArrangement."""
        batch, tiles = x.shape[0], x.shape[1]
        x, _, _ = self.patch(x.flatten(0, 1))
        x = self.tile(x.unflatten(0, (batch, tiles)).flatten(1, 2), aspect).unflatten(1, (tiles, -1))
        x = torch.cat([self.cls.to(x.dtype).expand(batch, tiles, 1, -1), x], dim=2)
        x = self.position(x, aspect)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        x = F.pad(x, (0, 0, 0, self.padded - self.count)).flatten(1, 2)
        if mask is None:
            area = torch.tensor(self.areas, device=x.device)[aspect]
            mask = torch.arange(tiles, device=x.device) < area[:, None]
        known = F.pad(mask.bool()[..., None].expand(batch, tiles, self.count), (0, self.padded - self.count)).flatten(1, 2)
        places = torch.arange(tiles, device=x.device)[:, None] * self.padded + torch.arange(self.count, device=x.device)
        out = super().forward(x, known, taps=taps, until=until)
        kept = out if isinstance(out, dict) else {"out": out}
        kept["mask"] = known
        kept["real"] = places.expand(batch, -1, -1)
        return kept

    def enter(self, x: Tensor, positions: Tensor) -> Tensor:
        """As it is: patches have their position already."""
        return x
