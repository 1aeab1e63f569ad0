"""The declaration `processor.canvas`: pictures put into a corner of the tiles that hold them best."""

from __future__ import annotations

from typing import ClassVar

from .config import Pixels, Positive, Side


class Canvas(Pixels, name="processor.canvas"):
    """Pictures cut into tiles, row by row, each sample's as `[B, M, max, 3, H, W]` (Llama 3.2-Vision). Tiles that are not there are zero.

    A canvas is any arrangement of up to `max` tiles. Where a picture fits into some, it takes the one that leaves least of a stretch to its
    sides, else the one that it shrinks least for; of several the smallest. It is not stretched beyond its size or that of a tile, stands at
    the left and at the top, and the rest is black. `gives`: `aspects`, the number of the arrangement `[B, M]`, counted from 1 by rows, then
    columns, 0 where there is no picture; `mask`, which tiles are there `[B, M, max]`, the first one always.
    """

    module: ClassVar[str] = "vlmgraph.processor.canvas:canvases"
    gives: ClassVar[tuple[str, ...]] = ("aspects", "mask")

    size: Side | tuple[Side, Side] | None = None
    """Of a tile: a square's side. None: what the input of the model says."""
    max: Positive | None = None
    """Tiles of a picture. None: what the input of the model says."""

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def most(self) -> int:
        """Tiles of a picture, once it is known."""
        assert self.max is not None
        return self.max

    def arrangements(self) -> list[tuple[int, int]]:
        """(rows, columns) of tiles, by number from 1."""
        return [(rows, columns) for rows in range(1, self.most + 1) for columns in range(1, self.most // rows + 1)]
