"""Pictures cut into as many tiles as their resolution asks for (Idefics3, arXiv 2408.12637, section 4.1); videos frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from . import problems
from .expand import Layout
from .fit import normalised
from .pictures import open_picture
from .problems import problem
from .split_config import Clip, Split
from .videos import Video, as_video
from .words import words


def scaled(height: int, width: int, config: Split) -> tuple[int, int]:
    """(height, width) with the long side at `longest`, the other an even number, none above `limit`."""
    aspect = width / height
    if width >= height:
        width = config.longest
        height = int(width / aspect)
        height += height % 2
    else:
        height = config.longest
        width = int(height * aspect)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    aspect = width / height  # of the rounded sides
    if width >= height and width > config.limit:
        height, width = int(config.limit / aspect), config.limit
    elif height > width and height > config.limit:
        height, width = config.limit, int(config.limit * aspect)
    return max(height, 1), max(width, 1)


def tile_grid(height: int, width: int, config: Split) -> tuple[int, int]:
    """(rows, columns) of tiles of a picture; (1, 1) is the whole picture alone."""
    side = config.hw()[0]
    height, width = scaled(height, width, config)
    aspect = width / height
    if width >= height:
        columns = math.ceil(width / side)
        return math.ceil(int(columns * side / aspect) / side), columns
    rows = math.ceil(height / side)
    return rows, math.ceil(int(rows * side * aspect) / side)


def cut(picture: PIL.Image.Image, config: Split) -> tuple[list[PIL.Image.Image], Layout]:
    """The tiles of one picture, the whole one last. Each resize is of the one before it, as published."""
    filter_, side = Resampling[config.resample.upper()], config.hw()[0]
    height, width = scaled(picture.height, picture.width, config)
    rows, columns = tile_grid(picture.height, picture.width, config) if config.cut else (1, 1)
    whole = picture.resize((width, height), filter_).resize((columns * side, rows * side), filter_)
    if rows * columns == 1:
        return [whole], Layout()
    corners = [(x * side, y * side) for y in range(rows) for x in range(columns)]
    tiles = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
    return [*tiles, whole.resize((side, side), filter_)], Layout.grid(rows, columns)


def frame_indices(count: int, rate: float, clip: Clip) -> list[int]:
    """Which of `count` frames, `rate` a second, are taken."""
    duration, first, last = count / rate, 0, count - 1
    wanted = max(min(round(clip.fps * duration), clip.max_frames), 1)
    if clip.trim and duration - 2 * clip.trim > clip.max_frames * clip.fps:
        first, last = int(clip.trim * rate), min(int(count - clip.trim * rate), last)
    if first >= last:
        first, last = 0, count - 1
    return [int(i) for i in np.unique(np.linspace(first, last, wanted, dtype=int))]


def frames(video: Video, config: Split, clip: Clip) -> tuple[list[PIL.Image.Image], Layout]:
    """The frames that are taken, each squashed to a tile, and what is said of them. Frames of no known rate are all taken, at `fps`."""
    count, rate = len(video.frames), video.fps or clip.fps
    chosen = list(range(count)) if video.fps is None else frame_indices(count, rate, clip)
    whole = config.model_copy(update={"cut": False, "longest": clip.longest or config.longest})
    tiles = [cut(open_picture(video.frames[i], config.alpha), whole)[0][0] for i in chosen]
    seconds = int(chosen[-1] / rate if video.fps is None else count / rate)
    said = tuple({"minutes": int(i / rate // 60), "seconds": int(i / rate % 60)} for i in chosen)
    return tiles, Layout((said,), {"count": words(len(chosen)), "duration": str(timedelta(seconds=seconds))}, whole=False, video=True)


def opened(item: Any, name: str, config: Split) -> tuple[list[PIL.Image.Image], Layout]:
    """A picture or a video in tiles. Raises VG0707 for a video where only pictures are taken."""
    if not (isinstance(item, Video) or (isinstance(item, np.ndarray) and item.ndim == 4)):
        return cut(open_picture(item, config.alpha), config)
    if config.video is None:
        raise problem(problems.SHAPE, f"`{name}` takes no videos", f"give pictures; or write processor.{name}.video = {{ fps = 1 }}")
    return frames(as_video(item, config), config, config.video)


def split(name: str, config: Split, items: Sequence[Any], groups: Sequence[int]) -> dict[str, Any]:
    """`[B, M, 3, H, W]`, what `also` asks for, and under `<name>.layouts`, which is no input, how each picture was cut."""
    made = [opened(item, name, config) for item in items]
    ends = np.cumsum(groups)
    samples = [[tile for tiles, _ in made[end - n : end] for tile in tiles] for n, end in zip(groups, ends)]
    shape = len(samples), max(map(len, samples), default=0)
    pixels = np.zeros((*shape, 3, *config.hw()), dtype=np.float32)
    mask = np.zeros((*shape, *config.hw()), dtype=np.int64)
    for b, sample in enumerate(samples):
        mask[b, : len(sample)] = 1
        for m, tile in enumerate(sample):
            normalised(tile, config, out=pixels[b, m])
    return {name: pixels, f"{name}.layouts": [layout for _, layout in made]} | dict.fromkeys(config.also, mask)
