"""Pictures at their own resolution as raw patches, for models that have no image encoder (Fuyu)."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from .config import Patches
from .fit import normalised


def patch_grid(height: int, width: int, config: Patches) -> tuple[int, int]:
    """Rows and columns of patches of a picture."""
    tall, wide = shrunk(height, width, config)
    return math.ceil(tall / config.patch), math.ceil(wide / config.patch)


def shrunk(height: int, width: int, config: Patches) -> tuple[int, int]:
    """(height, width) after the resize: `size`, or within `max_size` with the aspect kept, fractions dropped."""
    if config.size is not None:
        return (config.size, config.size) if isinstance(config.size, int) else config.size
    most, widest = config.max_size
    if height <= most and width <= widest:
        return height, width
    scale = min(most / height, widest / width)
    return max(int(height * scale), 1), max(int(width * scale), 1)


def raw_patches(image: PIL.Image.Image, config: Patches) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One RGB picture as `[rows * columns, patch * patch * 3]`, values by row, column, channel; and (1, rows, columns)."""
    tall, wide = shrunk(image.height, image.width, config)
    if (wide, tall) != image.size:
        image = image.resize((wide, tall), Resampling[config.resample.upper()])
    p, (rows, columns) = config.patch, patch_grid(image.height, image.width, config)
    canvas = PIL.Image.new("RGB", (columns * p, rows * p), (config.pad,) * 3)
    canvas.paste(image)
    split = normalised(canvas, config).reshape(3, rows, p, columns, p)
    return split.transpose(1, 3, 2, 4, 0).reshape(rows * columns, p * p * 3), (1, rows, columns)
