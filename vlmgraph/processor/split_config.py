"""The declaration `processor.split`: pictures cut into as many tiles as their resolution asks for."""

from __future__ import annotations

from typing import ClassVar

from .config import Pixels, Side


class Split(Pixels, name="processor.split"):
    """Pictures scaled to one long side and cut into tiles, row by row, the whole one squashed to a last tile (Idefics3, arXiv 2408.12637).

    The long side becomes `longest`, larger or smaller, then both sides the next whole number of tiles: `[B, M, 3, H, W]`, zeros behind the
    last tile of a sample. A picture of one tile is its own whole. `gives`: `mask`, which pixels are real `[B, M, H, W]`.
    """

    module: ClassVar[str] = "vlmgraph.processor.split:split"
    gives: ClassVar[tuple[str, ...]] = ("mask",)

    size: Side | None = None
    """Side of a tile. None: what the input of the model says."""
    longest: Side = 1456
    limit: Side = 4096
    """No picture is scaled above this, whatever `longest` says."""
    cut: bool = True
    """False squashes every picture to one tile."""

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return self.size, self.size
