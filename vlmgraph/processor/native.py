"""Pictures and videos at their own resolution as packed patches (Qwen2-VL, arXiv 2409.12191, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from . import problems
from .config import Native
from .fit import normalised
from .frames_config import Frames
from .pictures import name_of
from .problems import problem


def smart_size(height: int, width: int, config: Native, max_pixels: int | None = None, name: str = "the picture") -> tuple[int, int]:
    """The nearest (height, width) in multiples of a merged token whose area lies in the budget.

    Raises VG0707 where the sides differ by more than `max_aspect`.
    """
    aspect = max(height, width) / min(height, width)
    if aspect > config.max_aspect:
        raise problem(
            problems.SHAPE,
            f"{name} of {width} x {height} pixels is {aspect:.0f} times as long as wide; the limit is {config.max_aspect:g}",
            "cut the picture into less elongated parts",
        )
    step = config.multiple
    most = config.max_pixels if max_pixels is None else max_pixels
    least = min(config.min_pixels, most)
    tall, wide = round(height / step) * step, round(width / step) * step
    if tall * wide > most:
        shrink = math.sqrt(height * width / most)
        tall, wide = (max(step, math.floor(side / shrink / step) * step) for side in (height, width))
    elif tall * wide < least:
        grow = math.sqrt(least / (height * width))
        tall, wide = (math.ceil(side * grow / step) * step for side in (height, width))
    return tall, wide


def patches(frames: np.ndarray, config: Native) -> tuple[np.ndarray, tuple[int, int, int]]:
    """`[F, 3, H, W]` to `[t * h * w, 3 * temporal * patch^2]` and (t, h, w).

    Rows run over t, then blocks of merge x merge patches by row and column, then the patches of a block.
    The last frame fills up the last step of time, so one picture counts as `temporal` equal frames.
    """
    missing = -len(frames) % config.temporal
    if missing:
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    count, channels, height, width = frames.shape
    p, m = config.patch, config.merge
    t, h, w = count // config.temporal, height // p, width // p
    split = frames.reshape(t, config.temporal, channels, h // m, m, p, w // m, m, p)
    ordered = split.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(t * h * w, channels * config.temporal * p * p), (t, h, w)


def picture_patches(image: PIL.Image.Image, config: Native) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One RGB picture, resized into the budget."""
    height, width = smart_size(image.height, image.width, config, name=name_of(image))
    resized = image.resize((width, height), Resampling[config.resample.upper()])
    return patches(normalised(resized, config)[None], config)


def video_patches(frames: Sequence[PIL.Image.Image], config: Frames) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One video. A frame may have `max_pixels`, and no more than its share of `max_tokens`, which wins over `min_pixels`."""
    first = frames[0]
    if any(frame.size != first.size for frame in frames):
        sizes = sorted({f"{f.width} x {f.height}" for f in frames})
        raise problem(problems.SHAPE, f"the frames of a video differ in size: {', '.join(sizes)}", "give frames of one size")
    steps, most = math.ceil(len(frames) / config.temporal), config.max_pixels
    if config.shared:
        most = most // len(frames)
    elif config.max_tokens is not None:
        most = min(most, config.max_tokens * config.multiple**2 // steps)
    height, width = smart_size(first.height, first.width, config, most, "the video")
    filter_ = Resampling[config.resample.upper()]
    stack = np.empty((len(frames), 3, height, width), dtype=np.float32)
    for row, frame in zip(stack, frames):
        normalised(frame.resize((width, height), filter_), config, out=row)
    return patches(stack, config)


def sample_times(count: int, source_fps: float, fps: float, least: int, most: int, multiple: int, rule: str = "ends") -> list[int]:
    """Indices of frames at `fps` by one of the rules of `Frames.sampling`; but under "rate" as many as are a multiple of `multiple`, where
    the video has so many."""
    if rule == "rate":
        step = max(source_fps / fps, 1.0)
        regular = [i for k in range(math.ceil(count / step)) if (i := round(k * step)) < count]
        return regular if len(regular) <= most else [regular[int(i)] for i in np.linspace(0, len(regular) - 1, most)]
    most = min(most, count)
    wanted = min(max(count / source_fps * fps, least), most)
    number = max(int(wanted) // multiple * multiple, min(multiple, count))
    if rule == "starts":
        return [i * count // number for i in range(number)]
    return [round(i) for i in np.linspace(0, count - 1, number).tolist()]


def grid_tokens(grid: np.ndarray, merge: int) -> list[int]:
    """Tokens of each picture of a grid `[N, 3]` after merging."""
    return [int(n) for n in grid.prod(axis=1) // merge**2]
