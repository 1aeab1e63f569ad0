"""`processor.crops`: the whole picture and crops that may overlap. Declarations only."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .config import Pixels, Positive, Side


class Crops(Pixels, name="processor.crops"):
    """Pictures whole, `[N, 3, H, H]`, and cut into crops of the same size. `gives`: `crops [V, 3, H, H]`, those of all pictures row by row;
    `grid [N, 2]`, how many rows and columns each has.

    A picture is squashed to what its grid of crops covers, neighbours overlapping by twice `overlap` pixels. choose = cover: at least as
    many crops as its size asks for, more in its aspect ratio, `max` at most. nearest: of `grids` the one of the closest aspect ratio, then
    of the closest size (moondream).
    """

    module: ClassVar[str] = "vlmgraph.processor.crops:crops"
    gives: ClassVar[tuple[str, ...]] = ("crops", "grid")

    size: Side | None = None
    """Side of a crop. None: what the input of the model says."""
    overlap: Annotated[int, Field(ge=0)] = 0
    choose: Literal["cover", "nearest"] = "cover"
    max: Positive = 12
    grids: tuple[tuple[Positive, Positive], ...] = ((1, 1), (1, 2), (2, 1), (2, 2))
    """Rows and columns, for `nearest`."""
    small: Positive = 1
    """`nearest`: pictures whose sides are all shorter are one crop."""
    whole: Literal["picture", "canvas"] = "picture"
    """The whole view is the picture squashed; or what the crops are cut from, resampled bilinearly as numbers, without smoothing."""

    @model_validator(mode="after")
    def _room(self) -> Crops:
        if self.size is not None and 2 * self.overlap >= self.size:
            raise ValueError(f"overlap: twice {self.overlap} leaves nothing of {self.size}")
        return self

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return self.size, self.size
