"""Pictures that keep their aspect ratio, as quarters too (Idefics2, arXiv 2405.02246, sections 3.2 and 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from . import problems
from .aspect_config import Aspect
from .expand import Layout
from .fit import normalised
from .pictures import name_of, open_picture
from .problems import problem


def kept(height: int, width: int, config: Aspect) -> tuple[int, int]:
    """(height, width) with the long side at most `longest`, then both at least `shortest`."""
    ratio = width / height
    if width >= height and width > config.longest:
        height, width = int(config.longest / ratio), config.longest
    elif height > width and height > config.longest:
        height, width = config.longest, int(config.longest * ratio)
    return max(height, config.shortest), max(width, config.shortest)


def quarters(picture: PIL.Image.Image) -> list[PIL.Image.Image]:
    """The four quarters, row by row, and the picture; an odd row or column belongs to the lower or right ones."""
    width, height = picture.size
    x, y = width // 2, height // 2
    if not (x and y):
        text = f"{name_of(picture)} of {width} x {height} pixels has no quarters"
        raise problem(problems.SHAPE, text, "give pictures of at least 2 x 2 pixels, or set quarters = false")
    boxes = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    return [*(picture.crop(box) for box in boxes), picture]


def aspect(name: str, config: Aspect, items: Sequence[Any], groups: Sequence[int]) -> dict[str, Any]:
    """`[B, M, 3, H, W]`, what `also` asks for, and under `<name>.layouts`, which is no input, how each picture was cut."""
    filter_ = Resampling[config.resample.upper()]
    made: list[list[PIL.Image.Image]] = []
    for item in items:
        picture = open_picture(item, config.alpha)
        parts = []
        for part in quarters(picture) if config.quarters else [picture]:
            height, width = kept(part.height, part.width, config)
            parts.append(part.resize((width, height), filter_))
        made.append(parts)
    ends = np.cumsum(groups)
    samples = [[part for parts in made[end - n : end] for part in parts] for n, end in zip(groups, ends)]
    every = [part for parts in made for part in parts]
    shape = len(samples), max(map(len, samples), default=0)
    size = max((p.height for p in every), default=0), max((p.width for p in every), default=0)
    pixels = np.zeros((*shape, 3, *size), dtype=np.float32)
    mask = np.zeros((*shape, *size), dtype=np.int64)
    for b, sample in enumerate(samples):
        for m, part in enumerate(sample):
            mask[b, m, : part.height, : part.width] = 1
            pixels[b, m, :, : part.height, : part.width] = normalised(part, config)
    layout = Layout.grid(2, 2) if config.quarters else Layout()
    return {name: pixels, f"{name}.layouts": [layout] * len(items)} | dict.fromkeys(config.also, mask)
