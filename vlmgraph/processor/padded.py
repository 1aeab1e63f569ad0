"""Pictures of several sizes in one array, and the size of each (Pixtral, arXiv 2410.07073, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Resampling

from .config import Padded
from .fit import normalised
from .pictures import open_picture


def padded_size(height: int, width: int, config: Padded) -> tuple[int, int]:
    """(height, width) in whole patches: no side above `max_side` before it is rounded up."""
    ratio = max(height, width) / config.max_side
    if ratio > 1:
        height, width = (max(math.floor(side / ratio), 1) for side in (height, width))
    return -(-height // config.patch) * config.patch, -(-width // config.patch) * config.patch


def padded(name: str, config: Padded, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """`[N, 3, H, W]`, zeros at the right and at the bottom, and what `also` asks for."""
    made = []
    for item in items:
        picture = open_picture(item, config.alpha)
        height, width = padded_size(picture.height, picture.width, config)
        made.append(normalised(picture.resize((width, height), Resampling[config.resample.upper()]), config))
    sizes = np.array([pixels.shape[1:] for pixels in made], dtype=np.int64)
    whole = np.zeros((len(made), 3, *sizes.max(axis=0)), dtype=np.float32)
    for row, pixels in zip(whole, made):
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return {name: whole} | dict.fromkeys(config.also, sizes)
