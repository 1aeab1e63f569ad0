"""Anything that is a picture to an upright 8-bit RGB PIL image: files, bytes, arrays, any mode, the first frame."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
from PIL import ExifTags, ImageOps, UnidentifiedImageError

from ..diagnostics.core import DiagnosticError
from . import problems
from .problems import problem

MAX_PIXELS = 178_956_970
"""Pillow's own limit for a decompression bomb: 512 MiB as RGB."""

Source = PIL.Image.Image | np.ndarray | bytes | str | Path
Alpha = Literal["drop"] | tuple[int, int, int]


def name_of(source: Any) -> str:
    """How messages call a picture."""
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, bytes):
        return f"an image of {len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"an array of shape {source.shape}"
    if isinstance(source, PIL.Image.Image):
        return str(getattr(source, "filename", "") or "the picture")
    return f"a value of type {type(source).__name__}"


def open_picture(source: Source, alpha: Alpha = (255, 255, 255)) -> PIL.Image.Image:
    """An upright RGB image. Raises DiagnosticError VG0702 to VG0706 for what is not one."""
    name = name_of(source)
    with _guard(name):
        image = _opened(source, name)
        width, height = image.size
        if not width or not height:
            raise problem(problems.EMPTY, f"{name} has no pixels ({width} x {height})", "give a picture of at least 1 x 1 pixels")
        if width * height > MAX_PIXELS:
            raise _too_large(name, f"{width} x {height}")
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
        image.load()
        return to_rgb(_upright(image), alpha)


def open_frames(source: str | Path | bytes | PIL.Image.Image, alpha: Alpha = (255, 255, 255)) -> tuple[list[PIL.Image.Image], float | None]:
    """All frames of an animation (GIF, WebP, APNG, TIFF), and frames a second where the file says how long they last."""
    name = name_of(source)
    with _guard(name, "give a GIF or WebP animation, or decode the video first and give its frames: Video(frames, fps)"):
        image = _opened(source, name)
        count = getattr(image, "n_frames", 1)
        if image.size[0] * image.size[1] * count > MAX_PIXELS * 4:
            raise _too_large(name, f"{count} frames of {image.size[0]} x {image.size[1]}")
        frames, lasted = [], 0.0
        for index in range(count):
            image.seek(index)
            image.load()
            lasted += image.info.get("duration", 0) or 0
            frames.append(to_rgb(image.copy(), alpha))
        return frames, 1000 * count / lasted if lasted else None


def to_rgb(image: PIL.Image.Image, alpha: Alpha = (255, 255, 255)) -> PIL.Image.Image:
    """8-bit RGB of any mode. 16-bit grey is scaled by 1/256, floating grey from [0, 1] where it fits there, else clipped to 0..255."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise problem(problems.DAMAGED, f"{name_of(image)} holds values that are not numbers", "replace NaN and infinity first")
        if image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255):
            values = values / 256  # `convert` would clip at 255 and show white
        elif image.mode == "F" and values.min() >= 0 and values.max() <= 1:
            values = values * 255
        return PIL.Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours multiplied by their opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if alpha != "drop" and ("A" in image.getbands() or "transparency" in image.info):
        layer = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", layer.size, (*alpha, 255))
        return PIL.Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _opened(source: Source, name: str) -> PIL.Image.Image:
    if isinstance(source, PIL.Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, bytes):
        if not source:
            raise problem(problems.EMPTY, "the image has 0 bytes", "give the bytes of a whole image file")
        return PIL.Image.open(io.BytesIO(source))
    if not isinstance(source, (str, Path)):
        raise problem(problems.NOT_AN_IMAGE, f"{name} is not a picture", "give a PIL image, an array, bytes or the path of a file")
    path = Path(source)
    if path.is_dir():
        raise problem(problems.OPEN, f"{name} is a directory", "name one image file in it")
    if path.is_file() and path.stat().st_size == 0:
        raise problem(problems.EMPTY, f"{name} is an empty file", "copy or download the file again")
    return PIL.Image.open(path)


def _from_array(array: np.ndarray, name: str) -> PIL.Image.Image:
    """uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise problem(
            problems.NOT_AN_IMAGE, f"{name} of {array.dtype} is not a picture", "give uint8 values of shape [H, W], [H, W, 3] or [H, W, 4]"
        )
    if 0 in array.shape:
        raise problem(problems.EMPTY, f"{name} has no pixels", "give a picture of at least 1 x 1 pixels")
    return PIL.Image.fromarray(array)


def _too_large(name: str, size: str) -> Exception:
    return problem(problems.TOO_LARGE, f"{name} is too large ({size} pixels, the limit is {MAX_PIXELS:,})", "scale the picture down first")


@contextmanager
def _guard(name: str, save: str = "save it as PNG or JPEG") -> Iterator[None]:
    """Pillow's exceptions to diagnostics. Its warning for large pictures is silenced: the limit here is checked by size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PIL.Image.DecompressionBombError:
        raise _too_large(name, "more than twice the limit of") from None
    except UnidentifiedImageError:
        raise problem(problems.NOT_AN_IMAGE, f"{name} is not an image that Pillow knows", save) from None
    except FileNotFoundError:
        raise problem(problems.OPEN, f"{name} does not exist", "check the path") from None
    except PermissionError:
        raise problem(problems.OPEN, f"{name} may not be read", "change its permissions") from None
    except DiagnosticError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        reason = str(error) or type(error).__name__
        raise problem(problems.DAMAGED, f"{name} cannot be decoded: {reason}", "the file is cut off or damaged: copy it again") from None


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turned as its EXIF orientation says; a broken EXIF block says nothing."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:
        return image
    return ImageOps.exif_transpose(image) if turned else image
