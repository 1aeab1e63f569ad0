"""What a caller hands over as pictures and videos, to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from . import problems
from .config import Image, Native, Packed, Patches
from .fit import fitted, normalised
from .native import picture_patches
from .patches import raw_patches
from .pictures import open_picture
from .problems import problem
from .videos import Video, sampled


def single(value: Any) -> bool:
    """Whether `value` is one picture or video, rather than a list of them."""
    return isinstance(value, (str, Path, bytes, PIL.Image.Image, np.ndarray, Video))


def listed(value: Any) -> tuple[list[Any], list[int] | None]:
    """A flat list; and how many belong to each text where `value` is a list of lists."""
    if value is None:
        return [], None
    if single(value):
        return [value], None
    items = list(value)
    if items and all(isinstance(item, (list, tuple)) for item in items):
        return [one for item in items for one in item], [len(item) for item in items]
    return items, None


def listed_videos(value: Any) -> tuple[list[Any], list[int] | None]:
    """As `listed`; a list of pictures is one video, and so is an array `[F, H, W, 3]`."""
    if isinstance(value, (list, tuple)) and value and all(_is_frame(item) for item in value):
        return [Video(value)], None
    if isinstance(value, (list, tuple)) and value and not any(map(single, value)) and all(_is_frame(item[0]) for item in value if item):
        return [Video(item) for item in value], None
    return listed(value)


def images(name: str, config: Image, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """Pictures of one size, in the batch form of the entry."""
    if config.batch == "clips":
        return _clips(name, config, items, groups)
    height, width = config.hw()
    flat = np.empty((len(items), 3, height, width), dtype=np.float32)
    sizes = np.empty((len(items), 2), dtype=np.int64)
    for index, item in enumerate(items):
        picture = open_picture(item, config.alpha)
        sizes[index] = picture.height, picture.width
        normalised(fitted(picture, config), config, out=flat[index])
    made = {"sizes": sizes}
    if config.batch == "samples":
        flat, made["mask"] = _by_sample(flat, groups)
    return {name: flat} | {other: made[what] for other, what in config.also.items()}


def as_fitted(items: Sequence[Any], config: Image) -> list[PIL.Image.Image]:
    """Pictures at the size of an entry, before they become numbers."""
    return [fitted(open_picture(item, config.alpha), config) for item in items]


def packed(name: str, config: Packed, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    """Patches of all pictures one after the other."""
    made = []
    for item in items:
        if isinstance(config, Native):
            made.append(picture_patches(open_picture(item, config.alpha), config))
        elif isinstance(config, Patches):
            made.append(raw_patches(open_picture(item, config.alpha), config))
    rows = made[0][0] if len(made) == 1 else np.concatenate([p for p, _ in made])
    given = {"grid": np.array([g for _, g in made], dtype=np.int64).reshape(-1, 3)}
    if isinstance(config, Native):
        given["merges"] = np.full(len(made), config.merge, dtype=np.int64)
    return {name: rows[None] if isinstance(config, Patches) else rows} | {other: given[what] for other, what in config.also.items()}


def _clips(name: str, config: Image, items: Sequence[Any], groups: Sequence[int]) -> dict[str, np.ndarray]:
    clips = []
    sizes = []
    for item in items:
        is_clip = isinstance(item, Video) or (isinstance(item, np.ndarray) and item.ndim == 4)
        pictures = sampled(item, config, config.fps, 1, config.frames).frames if is_clip else [open_picture(item, config.alpha)]
        clips.append(np.stack([normalised(fitted(p, config), config) for p in pictures]))
        sizes.append((pictures[0].height, pictures[0].width))
    lengths = sorted({len(c) for c in clips})
    if len(lengths) > 1:
        raise problem(problems.SHAPE, f"`{name}` got clips of {lengths} frames", "give clips of one length, or call once for each")
    stacked, mask = _by_sample(np.stack(clips), groups)
    made = {"sizes": np.array(sizes, dtype=np.int64), "mask": mask}
    return {name: stacked} | {other: made[what] for other, what in config.also.items()}


def _by_sample(flat: np.ndarray, groups: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """`[N, ...]` to `[B, M, ...]`, zeros where a sample has fewer; and which are real `[B, M]`."""
    mask = np.arange(max(groups))[None] < np.asarray(groups)[:, None]
    result = np.zeros((*mask.shape, *flat.shape[1:]), dtype=flat.dtype)
    result[mask] = flat
    return result, mask


def _is_frame(item: Any) -> bool:
    return isinstance(item, PIL.Image.Image) or (isinstance(item, np.ndarray) and item.ndim < 4)
