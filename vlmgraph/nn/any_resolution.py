"""Views of a picture at any resolution back in one sequence (LLaVA-NeXT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .canvas import best_canvas, margins


class ViewCount(ValueError):
    """Fewer views than an image's size asks for."""


class AnyResolution(nn.Module):
    """x [I, M, side * side, d], of each image the base view, then its tiles; sizes [I, 2], heights and widths → [V, d].

    The tiles are put together to one map of patches, of which the margins are dropped that the picture does not fill; a learned newline
    ends each row. An image gives its base view, then the map. Views behind the last tile are padding. A base view alone gets one newline.
    `canvases` (height, width) are in pixels, as is `tile`.
    """

    def __init__(self, canvases: Sequence[Sequence[int]], tile: int, side: int, width: int) -> None:
        super().__init__()
        self.canvases, self.tile, self.side, self.width = canvases, tile, side, width
        self.newline = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.newline, std=self.width**-0.5)

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Raises ViewCount. On the meta device, where there are no sizes, the largest number of tokens without margins."""
        if x.device.type == "meta":
            return torch.cat([x.flatten(0, 2), self.newline.to(x.dtype).expand(x.shape[0], x.shape[1] * self.side, -1).flatten(0, 1)])
        return torch.cat([self.image(views, height, width) for views, (height, width) in zip(x, sizes.tolist())])

    def image(self, views: Tensor, height: int, width: int) -> Tensor:
        """Views [M, side * side, d] of one image → [tokens, d]."""
        line = self.newline.to(views.dtype)
        if len(views) == 1:
            return torch.cat([views[0], line[None]])
        tall, wide = best_canvas(height, width, self.canvases)
        down, across = tall // self.tile, wide // self.tile
        if down * across > len(views) - 1:
            raise ViewCount(
                f"an image of {height} x {width} pixels has {down} x {across} tiles and a base view, but there are {len(views)}"
            )
        tiles = views[1 : 1 + down * across].unflatten(1, (self.side, self.side)).unflatten(0, (down, across))
        whole = tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [rows, columns, d]
        top, left = margins(height, width, whole.shape[0], whole.shape[1])
        whole = whole[top : whole.shape[0] - top, left : whole.shape[1] - left]
        rows = torch.cat([whole, line.expand(whole.shape[0], 1, -1)], dim=1)
        return torch.cat([views[0], rows.flatten(0, 1)])
