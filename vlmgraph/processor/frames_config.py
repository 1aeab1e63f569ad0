"""The declaration `processor.frames`: videos as packed patches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .config import Native, Positive, Rate


class Prune(BaseModel):
    """Merged tokens whose pixels hardly differ from those of the frame before are left out (VideoLLaMA 3, arXiv 2501.13106, DiffFP)."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Mean difference of the normalised pixels, times 255, above which a token stays."""
    least: Positive = 1
    """Of a frame that has fewer, this many tokens stay, from its first on."""


class Frames(Native, name="processor.frames"):
    """Videos as packed patches; `temporal` frames make one step of time, the last one is repeated where they do not divide.

    `gives` also `seconds`, how long a step of time is in each video `[N]`, and `keep`, which merged tokens stay `[V]`. A step is a part
    of its video for the placeholder's `expand`, which may say its time: `{seconds}`, with one decimal.
    """

    module: ClassVar[str] = "vlmgraph.processor.videos:packed_videos"
    gives: ClassVar[tuple[str, ...]] = ("grid", "merges", "seconds", "keep")

    min_pixels: Positive = 100_352
    max_pixels: Positive = 602_112
    """Of one frame; or of all frames of a video together."""
    shared: bool = False
    """Whether the frames of a video share `max_pixels`, whatever `max_tokens` says."""
    fps: Rate = 2.0
    min_frames: Positive = 4
    max_frames: Positive = 768
    sampling: Literal["ends", "starts", "rate"] = "ends"
    """Frames evenly from the first to the last; or the first of as many equal parts; or one every 1 / fps seconds from the first on, of
    which, where they are more than `max_frames`, so many evenly from the first to the last."""
    max_tokens: Positive | None = 16_384
    """Of one video, after merging; the resolution of the frames adapts to it. None: as many as the frames have."""
    prune: Prune | None = None
    """Which tokens of a video of several steps are left out; none where it is not said."""

    @model_validator(mode="after")
    def _kept(self) -> Frames:
        if self.prune is not None and "keep" not in self.also.values():
            raise ValueError('prune: the model has to be told which tokens stay: also = { INPUT = "keep" }')
        return self
