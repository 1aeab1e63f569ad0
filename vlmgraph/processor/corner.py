"""Pictures in the corner of a square, and which pixels are theirs (Aria)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from .any_resolution import on_canvas
from .corner_config import Corner
from .fit import normalised
from .pictures import open_picture


def scaled(height: int, width: int, config: Corner) -> tuple[int, int]:
    """(height, width) with the long side at `size`; the fraction of a pixel of the other is dropped."""
    scale = config.size / max(height, width)
    if width >= height:
        return max(int(height * scale), config.min_side), config.size
    return config.size, max(int(width * scale), config.min_side)


def pieces(picture: PIL.Image.Image, config: Corner) -> list[PIL.Image.Image]:
    """The picture, or what it is cut into."""
    if not config.split:
        return [picture]
    whole = on_canvas(picture, config.canvases, Resampling[config.resample.upper()])
    corners = [(x, y) for y in range(0, whole.height, config.size) for x in range(0, whole.width, config.size)]
    return [whole.crop((x, y, min(x + config.size, whole.width), min(y + config.size, whole.height))) for x, y in corners]


def corner(name: str, config: Corner, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[N, 3, size, size]`, what `also` asks for, and under `<name>.pieces`, which is no input, how many each picture became."""
    made = [pieces(open_picture(item, config.alpha), config) for item in items]
    count = sum(map(len, made))
    pixels = np.empty((count, 3, config.size, config.size), dtype=np.float32)
    mask = np.zeros((count, config.size, config.size), dtype=bool)
    for row, real, piece in zip(pixels, mask, (piece for one in made for piece in one)):
        height, width = scaled(piece.height, piece.width, config)
        square = PIL.Image.new("RGB", (config.size, config.size))
        square.paste(piece.resize((width, height), Resampling[config.resample.upper()]), (0, 0))
        normalised(square, config, out=row)
        real[:height, :width] = True
    return {name: pixels, f"{name}.pieces": np.array([len(one) for one in made])} | dict.fromkeys(config.also, mask)
