"""Position ids of a sequence with images in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .eager import readable
from .splice import PlaceholderCount, ends, ranks


class Positions(nn.Module):
    """One position a token, or one shared by the inner tokens of an image.

    rule "sequential": 0, 1, 2, ... over the real tokens. rule "share_inner": the first token of an image stands at p, all inner ones
    at p + 1, the last at p + 2 (CogVLM, arXiv 2311.03079, section 2.2). Padding takes no position. Tokens of the id `pad` have none, -1.
    """

    def __init__(self, rule: str = "sequential", pad: int | None = None) -> None:
        super().__init__()
        self.rule, self.pad = rule, pad

    def forward(
        self, ids: Tensor, spans: Tensor | None = None, mask: Tensor | None = None, next: Tensor | None = None
    ) -> dict[str, Tensor]:
        """ids [B, T], spans [B, T] (0 text, else the place inside its image from 1), mask [B, T] →
        `positions` [B, T] and `next` [B], the first free one. Given `next`, decoding goes on from there and `mask` is that of the
        whole past, which is left aside.
        """
        steps = torch.ones_like(ids)
        if self.rule == "share_inner" and spans is not None:
            steps = torch.where((spans > 2) & ~ends(spans), 0, steps)
        if mask is not None and next is None:
            steps = steps * mask.to(steps.dtype)
        start = 0 if next is None else next[:, None]
        if self.pad is not None:  # decoding goes on from the real tokens before, as fairseq counts
            real = (ids != self.pad).to(steps.dtype)
            places = (steps * real).cumsum(1) + start
            return {"positions": places * real - 1, "next": places[:, -1]}
        positions = (steps.cumsum(1) - 1 + start).clamp(min=0)
        return {"positions": positions, "next": positions.amax(1) + 1}


class MropePositions(nn.Module):
    """Time, height and width of every token (M-RoPE, Qwen2-VL, arXiv 2409.12191, section 2.1).

    The three rows of a text token are equal. A vision token at frame, row, column (i, j, k) of the merged grid of an image that begins
    at s has s + i, s + j, s + k. The position after an image is one more than the largest of all three rows ("max", the paper), or
    s + max(height, width) ("max_hw", which leaves the frames of a video out). `merge` is how many patches a side make one token.

    With `per_second` a frame i of a video stands at s + floor(i * per_second * seconds) instead, seconds being the time between two of
    its frames: equal times are equally far apart at any sampling rate (Qwen2.5-VL, arXiv 2502.13923, section 2.1.2).
    """

    def __init__(
        self, image: int | None = None, video: int | None = None, merge: int = 2, next: str = "max", per_second: float | None = None
    ) -> None:
        super().__init__()
        self.image, self.video, self.merge, self.rule, self.per_second = image, video, merge, next, per_second

    def forward(
        self,
        ids: Tensor,
        image_grid: Tensor | None = None,
        video_grid: Tensor | None = None,
        mask: Tensor | None = None,
        next: Tensor | None = None,
        seconds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """ids [B, T], grids [N, 3] of patches (time, height, width), mask [B, T], seconds [M] from frame to frame of each video (else one)
        → `positions` [3, B, T], `delta` [B], `next` [B].

        next is one more than the largest position, delta is next less the number of real tokens. Given `next`, decoding goes on from
        there. Raises PlaceholderCount when the grids do not have as many tokens as there are placeholders.
        """
        steps = torch.ones_like(ids) if mask is None or next is not None else mask.to(ids.dtype)
        real = steps.sum(1)
        inside = [torch.zeros_like(ids)] * 3
        for kind, token, grid in (("image", self.image, image_grid), ("video", self.video, video_grid)):
            if token is None or grid is None:
                continue
            here = ids == token
            pace = None
            if kind == "video" and self.per_second is not None:
                pace = torch.ones(grid.shape[0], device=ids.device) if seconds is None else seconds.to(ids.device).float()
                pace = pace * self.per_second
            place, last, span = self.places(here, grid.to(ids.device), kind, pace)
            inside = [torch.where(here, new, old) for new, old in zip(place, inside, strict=True)]
            # an image takes its whole span at its last token, so that all of its tokens count from its beginning
            steps = torch.where(here, torch.where(last, span, 0), steps)
        start = steps.cumsum(1) - steps + (0 if next is None else next[:, None])
        positions = torch.stack([start + part for part in inside])
        if mask is not None and next is None:
            positions = positions * mask.to(ids.dtype)
        free = positions.amax(dim=(0, 2)) + 1
        return {"positions": positions, "delta": free - real, "next": free}

    def places(self, here: Tensor, grid: Tensor, kind: str, pace: Tensor | None = None) -> tuple[list[Tensor], Tensor, Tensor]:
        """Time, row and column of every placeholder in its grid, whether it is the last one, and the positions its image takes,
        all [B, T]. `pace` [n] is the time from frame to frame; else one."""
        frames, height, width = grid[:, 0], grid[:, 1] // self.merge, grid[:, 2] // self.merge
        counts = frames * height * width
        stops = counts.cumsum(0)
        if readable(here) and int(here.sum()) != int(counts.sum()):
            raise PlaceholderCount(f"input_ids hold {int(here.sum())} {kind} placeholders, but the grids have {int(counts.sum())} tokens")
        if grid.shape[0] == 0:
            return [torch.zeros_like(here, dtype=torch.long)] * 3, here, torch.zeros_like(here, dtype=torch.long)
        rank = ranks(here)
        item = torch.searchsorted(stops, rank.contiguous(), right=True).clamp(max=grid.shape[0] - 1)
        rank = rank - (stops - counts)[item]
        columns, area = width[item], (height * width)[item]
        largest = torch.maximum(height, width)
        if self.rule == "max":
            largest = torch.maximum(largest, frames if pace is None else ((frames - 1) * pace).long() + 1)
        time = rank // area
        if pace is not None:
            time = (time * pace[item]).long()
        return [time, rank % area // columns, rank % columns], rank == counts[item] - 1, largest[item]
