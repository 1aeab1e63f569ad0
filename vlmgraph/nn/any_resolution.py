"""Views of a picture at any resolution back in one sequence (LLaVA-NeXT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .eager import readable


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
        """Raises ViewCount. On the meta device, where there are no sizes, the largest number of tokens without margins.

        One gather: where each of the tokens stands in `x` follows from the sizes as numbers, so a graph of it takes any.
        """
        count, views, cells = x.shape[:3]
        line = self.newline.to(x.dtype)
        if x.device.type == "meta":
            return torch.cat([x.flatten(0, 2), line.expand(count, views * self.side, -1).flatten(0, 1)])
        if views == 1:
            return torch.cat([x[:, 0], line.expand(count, 1, -1)], dim=1).flatten(0, 1)
        down, across, top, left = self.places(sizes.to(x.device).long(), views)
        rows, columns = down * self.side - 2 * top, across * self.side - 2 * left
        lengths = cells + rows * (columns + 1)
        image = torch.repeat_interleave(torch.arange(count, device=x.device), lengths)
        own = torch.arange(image.shape[0], device=x.device) - (lengths.cumsum(0) - lengths)[image]  # the token's number in its image
        inside = (own - cells).clamp(min=0)
        row, column = inside // (columns[image] + 1), inside % (columns[image] + 1)
        down, over = row + top[image], column + left[image]
        tile = 1 + down // self.side * across[image] + over // self.side
        tiled = tile * cells + down % self.side * self.side + over % self.side
        place = image * (views * cells) + torch.where(own < cells, own, tiled)
        ends = (own >= cells) & (column == columns[image])
        return torch.cat([x.flatten(0, 2), line[None]])[torch.where(ends, count * views * cells, place)]

    def places(self, sizes: Tensor, views: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tiles down and across of each image [I], and the rows above and the columns to the left of its picture that are empty."""
        height, width = sizes.unbind(1)
        tall, wide = self.best(height, width)
        down, across = tall // self.tile, wide // self.tile
        if readable(sizes):
            for size, tiles in zip(sizes.tolist(), zip(down.tolist(), across.tolist())):
                if tiles[0] * tiles[1] > views - 1:
                    raise ViewCount(
                        f"an image of {size[0]} x {size[1]} pixels has {tiles[0]} x {tiles[1]} tiles and a base view, but there are {views}"
                    )
        rows, columns = down * self.side, across * self.side
        broad = width * rows > columns * height
        top = torch.where(broad, (rows - height * columns // width) // 2, 0)
        left = torch.where(broad, 0, (columns - width * rows // height) // 2)
        return down, across, top, left

    def best(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """`best_canvas` of every image, height and width [I]: in double precision, as the sizes of pictures are worked out."""
        tall, wide = torch.tensor(self.canvases, device=height.device).unbind(1)
        h, w = height[:, None].double(), width[:, None].double()
        scale = torch.minimum(wide / w, tall / h)
        shown = torch.minimum((w * scale).long() * (h * scale).long(), (height * width)[:, None])
        area = torch.where(shown == shown.amax(1, keepdim=True), tall * wide, 2**62)  # of those that show most, the smallest
        best = area.argmin(1)
        return tall[best], wide[best]
