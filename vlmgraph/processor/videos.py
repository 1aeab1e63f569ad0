"""Videos to packed patches: frames by time, the tokens that stay, what is said of each step of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from . import problems
from .config import Pixels
from .expand import Layout
from .frames_config import Frames
from .native import sample_times, video_patches
from .pictures import open_frames, open_picture
from .problems import problem


@dataclass(frozen=True)
class Video:
    """Frames in order. `fps` is the rate they were taken at; None: they are already sampled, all are used."""

    frames: Sequence[Any]
    fps: float | None = None


class Sampled(NamedTuple):
    """The frames of a video that are used, how many of them make a second, and when each of them was."""

    frames: list[PIL.Image.Image]
    fps: float
    times: list[float]


def packed_videos(name: str, config: Frames, items: Sequence[Any], groups: Sequence[int]) -> dict[str, Any]:
    """Patches of all videos one after the other, and under `<name>.layouts`, which is no input, the steps of each."""
    rows, grids, seconds, kept, layouts = [], [], [], [], []
    for item in items:
        video = sampled(item, config, config.fps, config.min_frames, config.max_frames)
        patches, grid = video_patches(video.frames, config)
        stays = changed(patches, grid, config)
        rows.append(patches)
        grids.append(grid)
        seconds.append(config.temporal / video.fps)
        kept.append(stays.ravel())
        said = tuple({"seconds": f"{time:.1f}"} for time in video.times[:: config.temporal])
        counts = () if config.prune is None else tuple(int(n) for n in stays.sum(axis=1))
        layouts.append(Layout((said,), whole=False, counts=counts))
    given = {
        "grid": np.array(grids, dtype=np.int64).reshape(-1, 3), "merges": np.full(len(grids), config.merge, dtype=np.int64),
        "seconds": np.array(seconds, dtype=np.float32), "keep": np.concatenate(kept),
    }  # fmt: skip
    pixels = rows[0] if len(rows) == 1 else np.concatenate(rows)
    return {name: pixels, f"{name}.layouts": layouts} | {other: given[what] for other, what in config.also.items()}


def changed(patches: np.ndarray, grid: tuple[int, int, int], config: Frames) -> np.ndarray:
    """Which merged tokens stay, `[t, tokens of a step]`: those whose pixels differ from the step directly before, however it was pruned."""
    t, h, w = grid
    stays = np.ones((t, h * w // config.merge**2), dtype=bool)
    if config.prune is not None and t > 1:
        blocks = patches.reshape(*stays.shape, -1)
        for step in range(1, t):
            stays[step] = np.abs(blocks[step] - blocks[step - 1]).mean(axis=-1) * 255 > config.prune.threshold
        stays[stays.sum(axis=1) < config.prune.least, : config.prune.least] = True
    return stays


def sampled(item: Any, config: Pixels, fps: float, least: int, most: int) -> Sampled:
    """By time where the rate of the video is known; else all of its frames, which were taken at `fps`."""
    video = as_video(item, config)
    chosen: Sequence[int] = range(len(video.frames))
    source = fps
    if video.fps is not None:
        source, multiple, rule = video.fps, 1, "ends"
        if isinstance(config, Frames):
            multiple, most, rule = config.temporal, min(most, affordable(config)), config.sampling
        chosen = sample_times(len(video.frames), source, fps, least, most, multiple, rule)
        fps = len(chosen) / len(video.frames) * source
    return Sampled([open_picture(video.frames[i], config.alpha) for i in chosen], fps, [i / source for i in chosen])


def as_video(item: Any, config: Pixels) -> Video:
    """Frames, or a file of them, as a video of one frame or more. Raises VG0706 and VG0707."""
    if isinstance(item, (str, Path, bytes, PIL.Image.Image)):
        video = Video(*open_frames(item, config.alpha))
    else:
        video = item if isinstance(item, Video) else Video(list(item))
    if not len(video.frames):
        raise problem(problems.EMPTY, "a video has no frames", "give at least one frame")
    if video.fps is not None and not 0 < video.fps < float("inf"):
        raise problem(problems.SHAPE, f"a video cannot have {video.fps} frames a second", "give the rate the frames were taken at")
    return video


def affordable(config: Frames) -> int:
    """Frames that fit into `max_tokens` at `min_pixels` each."""
    if config.max_tokens is None or config.shared:
        return config.max_frames
    tokens = max(config.min_pixels // config.multiple**2, 1)
    return max(config.max_tokens // tokens, 1) * config.temporal
