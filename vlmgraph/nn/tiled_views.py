"""Views of a picture, the whole and a grid of tiles, in one sequence with the ends of rows marked (DeepSeek-VL2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TileCount(ValueError):
    """Views and the grids of their images differ in number."""


class TiledViews(nn.Module):
    """x [V, side * side, d], of each image the whole, then its tiles row by row; tiles [I, 2], columns and rows of tiles → [P, d].

    The rows of the whole, a separator, and the rows of the tiles put together, each row behind it a learned newline (DeepSeek-VL2,
    arXiv 2412.10302, section 2.1). An image without columns and rows is padding.
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side, self.width = side, width
        self.newline = nn.Parameter(torch.empty(width))
        self.separator = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for vector in (self.newline, self.separator):
            nn.init.normal_(vector, std=self.width**-0.5)

    def forward(self, x: Tensor, tiles: Tensor) -> Tensor:
        """Raises TileCount. On the meta device, where there are no grids, each view counts as an image of one tile."""
        if x.device.type == "meta":
            return x.new_empty(x.shape[0] * (2 * self.side * (self.side + 1) + 1), self.width)
        grids = [(columns, rows) for columns, rows in tiles.reshape(-1, 2).tolist() if columns and rows]
        counts = [1 + columns * rows for columns, rows in grids]
        if sum(counts) != len(x):
            raise TileCount(f"the tiles of {len(grids)} images and their wholes are {sum(counts)} views, but there are {len(x)}")
        if not grids:
            return x.new_empty(0, self.width)
        return torch.cat([self.image(views, columns, rows) for views, (columns, rows) in zip(x.split(counts), grids)])

    def image(self, views: Tensor, columns: int, rows: int) -> Tensor:
        """Views [1 + rows * columns, side * side, d] of one image → [tokens, d]."""
        return torch.cat([self.rows(views[:1], 1, 1), self.separator[None].to(views.dtype), self.rows(views[1:], columns, rows)])

    def rows(self, views: Tensor, columns: int, rows: int) -> Tensor:
        """Views [rows * columns, side * side, d] put together, a newline behind every row of tokens: [tokens, d]."""
        grid = views.unflatten(1, (self.side, self.side)).unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return torch.cat([grid, self.newline.to(views.dtype).expand(grid.shape[0], 1, -1)], dim=1).flatten(0, 1)
