"""Pictures cut into tiles (InternVL, arXiv 2404.16821, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from .config import Tiles
from .fit import normalised
from .pictures import open_picture


@cache
def grids(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of `least` to `most` tiles, those with few tiles first."""
    found = [(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1) if i * j >= least]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def tile_grid(height: int, width: int, config: Tiles) -> tuple[int, int]:
    """(columns, rows) of the closest aspect ratio; a larger grid wins a tie where the picture has over half of its area."""
    area = config.hw()[0] * config.hw()[1]
    best, distance = (1, 1), float("inf")
    for columns, rows in grids(config.min, config.max):
        off = abs(width / height - columns / rows)
        if off < distance or (off == distance and width * height > 0.5 * area * columns * rows):
            best, distance = (columns, rows), off
    return best


def cut(picture: PIL.Image.Image, config: Tiles) -> list[PIL.Image.Image]:
    """The tiles of one picture."""
    filter_ = Resampling[config.resample.upper()]
    (height, width), (columns, rows) = config.hw(), tile_grid(picture.height, picture.width, config)
    whole = picture.resize((columns * width, rows * height), filter_)
    corners = [(x * width, y * height) for y in range(rows) for x in range(columns)]
    made = [whole.crop((x, y, x + width, y + height)) for x, y in corners]
    return [*made, picture.resize((width, height), filter_)] if config.thumbnail == "last" and len(made) > 1 else made


def tiles(name: str, config: Tiles, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[N, 3, H, W]`, and under `<name>.pieces`, which is no input, how many tiles each picture became."""
    made = [cut(open_picture(item, config.alpha), config) for item in items]
    pixels = np.empty((sum(map(len, made)), 3, *config.hw()), dtype=np.float32)
    for row, tile in zip(pixels, (tile for one in made for tile in one)):
        normalised(tile, config, out=row)
    return {name: pixels, f"{name}.pieces": np.array([len(one) for one in made])}
