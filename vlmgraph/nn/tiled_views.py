"""Views of a picture, the whole and a grid of tiles, in one sequence with the ends of rows marked (DeepSeek-VL2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable


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
        """Raises TileCount. On the meta device, where there are no grids, each view counts as an image of one tile.

        One gather: where each of the tokens stands in `x` follows from the grids as numbers, so a graph of it takes any.
        """
        side = self.side
        if x.device.type == "meta":
            return x.new_empty(x.shape[0] * (2 * side * (side + 1) + 1), self.width)
        columns, rows = tiles.to(x.device).reshape(-1, 2).long().unbind(1)
        real = (columns > 0) & (rows > 0)
        views = (1 + columns * rows) * real
        if readable(views) and int(views.sum()) != len(x):
            raise TileCount(f"the tiles of {int(real.sum())} images and their wholes are {int(views.sum())} views, but there are {len(x)}")
        whole = side * (side + 1)
        lengths = (whole + 1 + rows * side * (columns * side + 1)) * real
        image = torch.repeat_interleave(torch.arange(lengths.shape[0], device=x.device), lengths)
        own = torch.arange(image.shape[0], device=x.device) - (lengths.cumsum(0) - lengths)[image]  # the token's number in its image
        first, tiled = (views.cumsum(0) - views)[image], own > whole
        across = torch.where(tiled, columns[image], 1)
        inside, length = torch.where(tiled, own - whole - 1, own), across * side + 1
        row, column = inside // length, inside % length
        view = torch.where(tiled, first + 1 + row // side * across + column // side, first)
        place = view * side**2 + row % side * side + column % side
        last = x.shape[0] * side**2
        place = torch.where(column == across * side, last, place)
        place = torch.where(own == whole, last + 1, place)
        return torch.cat([x.flatten(0, 1), self.newline[None].to(x.dtype), self.separator[None].to(x.dtype)])[place]
