"""Pictures in the tiles that hold them best, and which text sees which tiles (Llama 3.2-Vision, arXiv 2407.21783)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from .canvas_config import Canvas
from .fit import normalised
from .pictures import open_picture


def arranged(height: int, width: int, config: Canvas) -> tuple[int, int]:
    """(rows, columns) of the tiles for a picture."""
    tall, wide = config.hw()
    scales = {(r, c): min(r * tall / height, c * wide / width) for r, c in config.arrangements()}
    larger = [scale for scale in scales.values() if scale >= 1]
    chosen = min(larger) if larger else max(scales.values())
    return min((pair for pair, scale in scales.items() if scale == chosen), key=lambda pair: pair[0] * pair[1])


def inner_size(height: int, width: int, rows: int, columns: int, config: Canvas) -> tuple[int, int]:
    """(height, width) of the picture on its canvas."""
    (tile_height, tile_width), most = config.hw(), (rows * config.hw()[0], columns * config.hw()[1])
    tall, wide = min(max(height, tile_height), most[0]), min(max(width, tile_width), most[1])
    down, across = tall / height, wide / width
    if across < down:
        return min(math.floor(height * across) or 1, tall), wide
    return tall, min(math.floor(width * down) or 1, wide)


def cut(picture: PIL.Image.Image, config: Canvas) -> tuple[list[PIL.Image.Image], tuple[int, int]]:
    """The tiles of one picture, and how many rows and columns they make."""
    (tall, wide), (rows, columns) = config.hw(), arranged(picture.height, picture.width, config)
    height, width = inner_size(picture.height, picture.width, rows, columns, config)
    canvas = PIL.Image.new("RGB", (columns * wide, rows * tall))
    canvas.paste(picture.resize((width, height), Resampling[config.resample.upper()]))
    corners = [(x * wide, y * tall) for y in range(rows) for x in range(columns)]
    return [canvas.crop((x, y, x + wide, y + tall)) for x, y in corners], (rows, columns)


def canvases(name: str, config: Canvas, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[B, M, max, 3, H, W]`, what `also` asks for, and under `<name>.tiles`, which is no input, which tiles are there, `[B, M, max]`."""
    shape = (len(groups), max(groups, default=0))
    pixels = np.zeros((*shape, config.most, 3, *config.hw()), dtype=np.float32)
    aspects, there = np.zeros(shape, dtype=np.int64), np.zeros((*shape, config.most), dtype=bool)
    numbers = {pair: i for i, pair in enumerate(config.arrangements(), 1)}
    places = ((b, m) for b, count in enumerate(groups) for m in range(count))
    for (b, m), item in zip(places, items):
        tiles, pair = cut(open_picture(item, config.alpha), config)
        aspects[b, m], there[b, m, : len(tiles)] = numbers[pair], True
        for tile, out in zip(tiles, pixels[b, m]):
            normalised(tile, config, out=out)
    mask = there.copy()
    mask[..., 0] = True  # an image that is not there has one tile, so that its tokens attend to something
    made = {"aspects": aspects, "mask": mask.astype(np.int64)}
    return {name: pixels, f"{name}.tiles": there} | {other: made[what] for other, what in config.also.items()}


def seen_tiles(ids: np.ndarray, placeholders: Collection[int], there: np.ndarray) -> np.ndarray:
    """Which tiles a token may attend to: `[B, T, M, K]` of ids `[B, T]` and the tiles that are there, `[B, M, K]`.

    A picture is seen from its placeholder on until the next one; pictures whose placeholders follow on each other are seen as long as the
    last of them, and the last picture of all to the end.
    """
    seen = np.zeros((*ids.shape, *there.shape[1:]), dtype=np.int64)
    for row, images, out in zip(ids, there, seen):
        starts = np.flatnonzero(np.isin(row, list(placeholders))).tolist()
        ends = [*starts[1:], len(row)]
        for m in reversed(range(len(starts) - 1)):
            if ends[m] == starts[m] + 1:
                ends[m] = ends[m + 1]
        for image, tiles, start, end in zip(out.swapaxes(0, 1), images, starts, ends):
            image[start:end] = tiles
    return seen
