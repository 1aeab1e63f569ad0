"""The whole picture, and crops of it that may overlap (moondream)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from .crops_config import Crops
from .fit import normalised
from .pictures import open_picture


def crop_grid(height: int, width: int, config: Crops) -> tuple[int, int]:
    """(rows, columns) of crops. As published, `nearest` holds the height of a grid against the width of the picture, and the other way."""
    side, both = config.hw()[0], 2 * config.overlap
    if config.choose == "nearest":
        if max(height, width) < config.small:
            return 1, 1

        def distance(grid: tuple[int, int]) -> tuple[float, int]:
            tall, wide = side * grid[0], side * grid[1]
            return abs(wide / tall - width / height), abs(tall - width) + abs(wide - height)

        return min(config.grids, key=distance)
    step, height, width = side - both, height - both, width - both
    if height <= step or width <= step:
        return 1, 1
    least = math.ceil(height / step), math.ceil(width / step)
    if least[0] * least[1] > config.max:
        ratio = math.sqrt(config.max / (least[0] * least[1]))
        return max(1, math.floor(least[0] * ratio)), max(1, math.floor(least[1] * ratio))
    rows = max(math.floor(math.sqrt(config.max * height / width)), least[0])
    columns = max(math.floor(math.sqrt(config.max * width / height)), least[1])
    if rows * columns > config.max:
        if columns > rows:
            columns = config.max // rows
        else:
            rows = config.max // columns
    return max(1, rows), max(1, columns)


def resampled(pixels: np.ndarray, side: int) -> np.ndarray:
    """[3, H, W] → [3, side, side], each value between its four neighbours: no smoothing where it becomes smaller."""
    for axis in (1, 2):
        length = pixels.shape[axis]
        place = np.maximum((np.arange(side) + 0.5) * (length / side) - 0.5, 0)
        low = place.astype(np.int64)
        share = (place - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
        near, far = pixels.take(low, axis), pixels.take(np.minimum(low + 1, length - 1), axis)
        pixels = near * (1 - share) + far * share
    return pixels


def cut(picture: PIL.Image.Image, config: Crops) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The whole view [3, H, H], the crops [rows * columns, 3, H, H], and (rows, columns)."""
    filter_, side = Resampling[config.resample.upper()], config.hw()[0]
    rows, columns = crop_grid(picture.height, picture.width, config)
    step = side - 2 * config.overlap
    canvas = picture.resize((columns * step + 2 * config.overlap, rows * step + 2 * config.overlap), filter_)
    pixels = normalised(canvas, config)
    parts = [pixels[:, y * step : y * step + side, x * step : x * step + side] for y in range(rows) for x in range(columns)]
    whole = resampled(pixels, side) if config.whole == "canvas" else normalised(picture.resize((side, side), filter_), config)
    return whole, np.stack(parts), (rows, columns)


def crops(name: str, config: Crops, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """Whole views, and what `also` asks for."""
    made = [cut(open_picture(item, config.alpha), config) for item in items]
    given = {"crops": np.concatenate([parts for _, parts, _ in made]), "grid": np.array([grid for *_, grid in made], dtype=np.int64)}
    return {name: np.stack([whole for whole, *_ in made])} | {other: given[what] for other, what in config.also.items()}
