"""The declaration `processor.corner`: pictures in the corner of a square, and which pixels are theirs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from .config import Pixels, Side


class Corner(Pixels, name="processor.corner"):
    """Pictures scaled to one long side, in the upper left corner of a square: `[N, 3, size, size]` (Aria, arXiv 2410.05993, section 2.2).

    The long side becomes `size`, larger or smaller, and the other is kept at `min_side` at least. With `split` a picture is first put into
    the middle of the canvas that shows most of its pixels, which is cut into pieces of `size`, row by row, the last ones smaller; each is
    scaled by itself. `gives`: `mask`, which pixels are the picture's, `[N, size, size]`.
    """

    module: ClassVar[str] = "vlmgraph.processor.corner:corner"
    gives: ClassVar[tuple[str, ...]] = ("mask",)

    size: Side = 980
    min_side: Side = 336
    split: bool = False
    canvases: tuple[tuple[Side, Side], ...] = ()
    """(height, width); needed with `split`."""

    @model_validator(mode="after")
    def _fits(self) -> Corner:
        if self.min_side > self.size:
            raise ValueError(f"min_side {self.min_side} is above size {self.size}")
        if self.split and not self.canvases:
            raise ValueError("split needs `canvases`, the sizes that pictures are brought to before they are cut")
        return self
