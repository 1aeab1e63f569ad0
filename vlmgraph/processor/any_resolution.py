"""Pictures as a base view and tiles of the canvas that fits them best (LLaVA-NeXT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from ..components.base import load_symbol
from .config import AnyResolution
from .fit import normalised
from .pictures import open_picture


def on_canvas(picture: PIL.Image.Image, canvases: Sequence[tuple[int, int]], filter_: Resampling) -> PIL.Image.Image:
    """The canvas that shows most of the picture's pixels, with the picture in its middle."""
    tall, wide = load_symbol("vlmgraph.nn.canvas:best_canvas")(picture.height, picture.width, canvases)
    across, down = wide / picture.width, tall / picture.height
    if across < down:
        inner = wide, min(math.ceil(picture.height * across), tall)
    else:
        inner = min(math.ceil(picture.width * down), wide), tall
    canvas = PIL.Image.new("RGB", (wide, tall))
    canvas.paste(picture.resize(inner, filter_), ((wide - inner[0]) // 2, (tall - inner[1]) // 2))
    return canvas


def views(picture: PIL.Image.Image, config: AnyResolution) -> list[PIL.Image.Image]:
    """The whole picture squashed to one tile, then the tiles, row by row, of the canvas with the picture in its middle."""
    filter_ = Resampling[config.resample.upper()]
    height, width = config.hw()
    canvas = on_canvas(picture, config.canvases, filter_)
    corners = [(x, y) for y in range(0, canvas.height, height) for x in range(0, canvas.width, width)]
    return [picture.resize((width, height), filter_), *(canvas.crop((x, y, x + width, y + height)) for x, y in corners)]


def any_resolution(name: str, config: AnyResolution, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[I, M, 3, H, W]`, zeros behind the last view of a picture, and what `also` asks for."""
    pictures = [open_picture(item, config.alpha) for item in items]
    made = [views(picture, config) for picture in pictures]
    pixels = np.zeros((len(made), max(map(len, made)), 3, *config.hw()), dtype=np.float32)
    for row, one in zip(pixels, made):
        for out, view in zip(row, one):
            normalised(view, config, out=out)
    sizes = np.array([(picture.height, picture.width) for picture in pictures], dtype=np.int64)
    return {name: pixels} | dict.fromkeys(config.also, sizes)
