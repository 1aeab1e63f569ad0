"""Pictures of one size. Filters are Pillow's, on 8-bit values, as in the reference processors."""

from __future__ import annotations

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from . import problems
from .config import Image, Pixels
from .pictures import MAX_PIXELS, name_of
from .problems import problem

WHOLE = 1 << 24
"""Up to so many pixels a picture is resized whole before the crop, beyond only the crop is computed."""


def fitted(image: PIL.Image.Image, config: Image) -> PIL.Image.Image:
    """`image` at the size of `config`, by its `fit`."""
    filter_ = Resampling[config.resample.upper()]
    height, width = config.hw()
    if config.fit == "squash":
        return image.resize((width, height), filter_)
    if config.fit == "crop":
        return _crop(image, config, filter_)
    if config.fit == "longest":
        inner = _contained(image.size, width, config)
        return padded(image.resize(inner, filter_), width, config.pad_colour(config.pad))
    side = max(image.size)
    if side * side > MAX_PIXELS:
        raise problem(
            problems.SHAPE,
            f"{name_of(image)} of {image.width} x {image.height} pixels would be padded to a square of {side:,} x {side:,}",
            "cut the picture into less elongated parts",
        )
    return padded(image, side, config.pad_colour(config.pad)).resize((width, height), filter_)


def padded(image: PIL.Image.Image, side: int, colour: tuple[int, int, int]) -> PIL.Image.Image:
    """`image` in the middle of a square; an odd pixel goes to the right or bottom."""
    if image.size == (side, side):
        return image
    square = PIL.Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def normalised(image: PIL.Image.Image, config: Pixels, out: np.ndarray | None = None) -> np.ndarray:
    """float32 `[3, H, W]`: one multiplication and one addition a value."""
    mean, std = (np.asarray(v, dtype=np.float64) for v in config.mean_std())
    scale = (config.rescale / std).astype(np.float32)[:, None, None]
    shift = (-mean / std).astype(np.float32)[:, None, None]
    pixels = np.asarray(image).transpose(2, 0, 1)
    result = np.multiply(pixels, scale, out=out, dtype=np.float32)
    return np.add(result, shift, out=result)


def restored(values: np.ndarray, config: Pixels) -> list[PIL.Image.Image]:
    """The inverse of `normalised` for `[..., 3, H, W]`: clipped to 0..255, fractions dropped."""
    if values.ndim < 3 or values.shape[-3] != 3:
        raise problem(problems.SHAPE, f"{name_of(values)} holds no pictures", "give values of shape [N, 3, H, W]")
    if not np.isfinite(values).all():
        raise problem(problems.DAMAGED, f"{name_of(values)} holds values that are not numbers", "check the model's output")
    mean, std = (np.asarray(v, dtype=np.float64)[:, None, None] for v in config.mean_std())
    flat = values.reshape(-1, *values.shape[-3:]).astype(np.float64)
    # the tiny step up keeps whole bytes whole after the round trip through float32
    pixels = np.clip((flat * std + mean) / config.rescale + 1e-4, 0, 255).astype(np.uint8)
    return [PIL.Image.fromarray(np.ascontiguousarray(p)) for p in pixels.transpose(0, 2, 3, 1)]


def _whole(length: float, config: Image) -> int:
    return round(length) if config.rounding == "nearest" else int(length)


def _contained(size: tuple[int, int], side: int, config: Image) -> tuple[int, int]:
    """(width, height) with the long side at `side`."""
    scale = side / max(size)
    width, height = (max(_whole(length * scale, config), config.min_side) for length in size)
    return min(width, side), min(height, side)


def _crop(image: PIL.Image.Image, config: Image, filter_: Resampling) -> PIL.Image.Image:
    """The shortest edge to `short` or the longer side of the crop, then its centre."""
    height, width = config.hw()
    short = config.short or max(height, width)
    if image.width <= image.height:
        size = short, max(_whole(short * image.height / image.width, config), short)
    else:
        size = max(_whole(short * image.width / image.height, config), short), short
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if size[0] * size[1] <= WHOLE:
        return image.resize(size, filter_).crop((left, top, left + width, top + height))
    across, down = image.width / size[0], image.height / size[1]
    box = (left * across, top * down, min((left + width) * across, image.width), min((top + height) * down, image.height))
    return image.resize((width, height), filter_, box=box)
