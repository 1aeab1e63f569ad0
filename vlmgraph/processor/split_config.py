"""The declaration `processor.split`: pictures cut into as many tiles as their resolution asks for, videos frame by frame."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .config import Pixels, Positive, Rate, Side


class Clip(BaseModel):
    """Which frames of a video are taken: evenly from the first to the last, at `fps`, no more than `max_frames` (SmolVLM2)."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    fps: Rate = 1.0
    max_frames: Positive = 64
    trim: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Seconds left out at both ends of a video that is longer than its frames can show."""
    longest: Side | None = None
    """The long side of a frame before it is squashed to a tile; None: that of pictures."""


class Split(Pixels, name="processor.split"):
    """Pictures scaled to one long side and cut into tiles, row by row, the whole one squashed to a last tile (Idefics3, arXiv 2408.12637).

    The long side becomes `longest`, larger or smaller, then both sides the next whole number of tiles: `[B, M, 3, H, W]`, zeros behind the
    last tile of a sample. A picture of one tile is its own whole. `gives`: `mask`, which pixels are real `[B, M, H, W]`.

    A frame of a video is a part of it for the placeholder's `expand`, which may say its time, `{minutes}` and `{seconds}`, and at its
    start how many frames there are, `{count}` in words, and how long the video is, `{duration}`.
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
    video: Clip | None = None
    """How videos are taken, whose frames are entries of this input too; None: it takes pictures alone."""

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return self.size, self.size
