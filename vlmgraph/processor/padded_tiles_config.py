"""The declaration `processor.padded_tiles`: a picture whole and in tiles, both with their margins filled."""

from __future__ import annotations

from typing import ClassVar

from .config import Byte, Pixels, Positive, Side


class PaddedTiles(Pixels, name="processor.padded_tiles"):
    """Pictures as the whole in one tile and, always, as a grid of tiles, row by row; all `[V, 3, H, W]` (DeepSeek-VL2, arXiv 2412.10302).

    The grid is the one that shows most of the picture's own pixels, of equally good ones the one that wastes least, then the first; both
    keep the aspect ratio, the rest is `pad`. Of more than `most_cut` pictures of a sample none is cut: each is the whole twice. `gives`:
    `tiles`, columns and rows of each picture `[N, 2]`.
    """

    module: ClassVar[str] = "vlmgraph.processor.padded_tiles:padded_tiles"
    gives: ClassVar[tuple[str, ...]] = ("tiles",)

    size: Side = 384
    """Side of a tile."""
    max: Positive = 9
    """Tiles of a grid."""
    candidates: tuple[tuple[Side, Side], ...] = ()
    """(width, height) of the grids in pixels, in place of all of up to `max` tiles."""
    pad: Byte | tuple[Byte, Byte, Byte] = 127
    most_cut: Positive = 2

    def grids(self) -> tuple[tuple[int, int], ...]:
        """(width, height) in pixels, in the order in which equally good ones are preferred."""
        if self.candidates:
            return self.candidates
        sides = range(1, self.max + 1)
        return tuple((m * self.size, n * self.size) for m in sides for n in sides if m * n <= self.max)
