"""A picture whole and in tiles, both with their margins filled (DeepSeek-VL2, arXiv 2412.10302, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageOps
from PIL.Image import Resampling

from .fit import normalised
from .padded_tiles_config import PaddedTiles
from .pictures import open_picture


def best_grid(width: int, height: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) of the grid that shows most of the picture's own pixels, then wastes least, then comes first."""
    best, shown, wasted = grids[0], 0, 0
    for wide, tall in grids:
        scale = min(wide / width, tall / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        waste = wide * tall - effective
        if effective > shown or (effective == shown and waste < wasted):
            best, shown, wasted = (wide, tall), effective, waste
    return best


def views(picture: PIL.Image.Image, grid: tuple[int, int], config: PaddedTiles) -> list[PIL.Image.Image]:
    """The whole, then the tiles row by row."""
    filter_, colour, size = Resampling[config.resample.upper()], config.pad_colour(config.pad), config.size
    whole = ImageOps.pad(picture, (size, size), filter_, colour)
    spread = ImageOps.pad(picture, grid, filter_, colour)
    corners = [(x, y) for y in range(0, grid[1], size) for x in range(0, grid[0], size)]
    return [whole, *(spread.crop((x, y, x + size, y + size)) for x, y in corners)]


def padded_tiles(name: str, config: PaddedTiles, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[V, 3, H, W]`, and what `also` asks for."""
    cut = [count <= config.most_cut for count in groups for _ in range(count)]
    made, tiles = [], []
    for item, whether in zip(items, cut):
        picture = open_picture(item, config.alpha)
        grid = best_grid(picture.width, picture.height, config.grids()) if whether else (config.size, config.size)
        made += views(picture, grid, config)
        tiles.append((grid[0] // config.size, grid[1] // config.size))
    pixels = np.empty((len(made), 3, config.size, config.size), dtype=np.float32)
    for row, view in zip(pixels, made):
        normalised(view, config, out=row)
    return {name: pixels} | dict.fromkeys(config.also, np.array(tiles, dtype=np.int64).reshape(-1, 2))
