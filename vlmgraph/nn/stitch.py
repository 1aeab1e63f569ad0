"""Tiles of an image put together as one map of features, made as large for every image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable


class TileCount(ValueError):
    """Grids and tiles that do not fit together."""


class Stitch(nn.Module):
    """x [V, side * side, d], the tiles of all images, row by row; grid [N, 2], rows and columns of tiles of each → [N, size * size, d].

    Neighbouring tiles overlap by 2 * `margin` tokens: inside the map each gives up its outer `margin`, on the border of the image it keeps
    them. The map of rows * (side - 2 margin) + 2 margin by columns * ... tokens is resampled to size x size: "bilinear", without smoothing,
    or "average", means of the cells that fall into each (adaptive pooling). Maps of different sizes are never made: what a tile
    gives to each row and column of the result is a matrix of weights, and the tiles of an image are added up.
    """

    def __init__(self, side: int, size: int, margin: int = 0, mode: str = "bilinear") -> None:
        super().__init__()
        self.side, self.size, self.margin, self.mode = side, size, margin, mode

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Raises TileCount."""
        side, size = self.side, self.size
        if x.device.type == "meta":  # there are no numbers to read
            return x.new_empty(grid.shape[0], size * size, x.shape[-1])
        grid = grid.to(x.device).long()
        tiles = grid.prod(dim=1)
        if readable(grid) and (bool((grid < 1).any()) or int(tiles.sum()) != len(x)):
            raise TileCount(f"grids {grid.tolist()} have {int(tiles.sum())} tiles, but there are {len(x)}")
        image = torch.repeat_interleave(torch.arange(grid.shape[0], device=x.device), tiles, output_size=x.shape[0])
        own = torch.arange(x.shape[0], device=x.device) - (tiles.cumsum(0) - tiles)[image]  # the tile's number in its image
        rows, columns = grid[image, 0], grid[image, 1]
        down = self.weights(own // columns, rows).to(x.dtype)
        across = self.weights(own % columns, columns).to(x.dtype)
        y = (down @ x.unflatten(1, (side, side)).flatten(2)).unflatten(2, (side, -1))  # [V, size, side, d]
        y = (across[:, None] @ y).flatten(1, 2)
        return y.new_zeros(grid.shape[0], size * size, y.shape[-1]).index_add(0, image, y)

    def weights(self, place: Tensor, count: Tensor) -> Tensor:
        """What each token along one axis of a tile adds to each place of the result: place [V] among count [V] tiles → [V, size, side]."""
        token, target = torch.arange(self.side, device=place.device), torch.arange(self.size, device=place.device)[:, None]
        place, count = place[:, None, None], count[:, None, None]
        step = self.side - 2 * self.margin
        length, at = count * step + 2 * self.margin, place * step + token
        kept = ((token >= self.margin) | (place == 0)) & ((token < self.side - self.margin) | (place == count - 1))
        if self.mode == "average":
            first, end = target * length // self.size, -(-(target + 1) * length // self.size)
            return (kept & (at >= first) & (at < end)) / (end - first)
        source = ((target + 0.5) * (length / self.size) - 0.5).clamp(min=0)
        low = source.long()
        share = source - low
        high = torch.minimum(low + 1, length - 1)
        return kept * ((at == low) * (1 - share) + (at == high) * share)
