"""Geometry and normalisation, checked without another library."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL.Image import Resampling

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Video, build_processor
from vlmgraph.processor import fit as fit_module
from vlmgraph.processor.config import Image
from vlmgraph.processor.fit import fitted, normalised, restored


def test_llava_pads_to_a_square_of_the_mean_colour() -> None:
    """A picture 200 wide and 100 high gets 50 rows of (122, 116, 104) above and below."""
    image = PIL.Image.new("RGB", (200, 100), (255, 0, 0))
    square = np.asarray(fitted(image, Image(size=200, fit="pad", pad="mean")))
    assert square.shape == (200, 200, 3)
    grey = (square == (122, 116, 104)).all(axis=(1, 2))
    assert grey.tolist() == [True] * 50 + [False] * 100 + [True] * 50


def test_odd_padding_goes_below() -> None:
    image = PIL.Image.new("RGB", (5, 2), (9, 9, 9))
    rows = np.asarray(fitted(image, Image(size=5, fit="pad")))[:, 0, 0]
    assert rows.tolist() == [0, 9, 9, 0, 0]


def test_janus_keeps_thin_pictures_14_wide() -> None:
    image = PIL.Image.new("RGB", (3, 300), (255, 255, 255))
    square = np.asarray(fitted(image, Image(size=384, fit="longest", min_side=14)))
    assert int(square[0, :, 0].astype(bool).sum()) == 14


@pytest.mark.parametrize("size", [(200, 300), (4, 900), (900, 4), (333, 100)])
def test_the_crop_of_long_pictures_is_the_same_crop(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing only the crop gives what resizing the whole picture gives, within one step.

    Pillow resizes rows or columns first, whichever costs less, and rounds in between: the crop is either of the two.
    """
    image = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    config = Image(size=(60, 80), fit="crop")
    scale = 80 / min(size)
    width, height = (int(side * scale) for side in size)
    left, top = (width - 80) // 2, (height - 60) // 2
    orders = []
    for between in ((width, size[1]), (size[0], height)):
        whole = image.resize(between, Resampling.BICUBIC).resize((width, height), Resampling.BICUBIC)
        orders.append(np.asarray(whole.crop((left, top, left + 80, top + 60))).astype(int))
    monkeypatch.setattr(fit_module, "WHOLE", 0)
    part = np.asarray(fitted(image, config)).astype(int)
    assert part.shape == (60, 80, 3)
    assert min(np.abs(part - order).max() for order in orders) <= 1


def test_a_line_of_a_million_pixels_needs_no_gigabytes() -> None:
    line = PIL.Image.new("RGB", (1_000_000, 1), (10, 20, 30))
    assert np.asarray(fitted(line, Image(size=224))).shape == (224, 224, 3)
    with pytest.raises(DiagnosticError, match=r"VG0707.*1,000,000 x 1,000,000"):
        fitted(line, Image(size=224, fit="pad"))


def test_statistics() -> None:
    image = PIL.Image.new("RGB", (1, 1), (0, 128, 255))
    half = normalised(image, Image(stats=0.5))[:, 0, 0]
    assert np.allclose(half, [-1, 128 / 127.5 - 1, 1], atol=1e-6)
    own = normalised(image, Image(stats={"mean": [0.0, 0.5, 1.0], "std": [1.0, 0.5, 0.25]}))[:, 0, 0]
    assert np.allclose(own, [0, (128 / 255 - 0.5) / 0.5, 0], atol=1e-6)
    assert np.allclose(normalised(image, Image(stats="imagenet"))[2, 0, 0], (1 - 0.406) / 0.225, atol=1e-6)


def test_pictures_out_of_pixels_round_trip(build: Any) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    values = normalised(PIL.Image.fromarray(every), Image(stats=0.5))
    (back,) = build("janus").pictures(values[None])
    assert np.array_equal(np.asarray(back), every)
    (clipped,) = build("janus").pictures(np.stack([np.full((4, 4), v) for v in (-3.0, 0.0, 3.0)])[None])
    assert np.asarray(clipped)[0, 0].tolist() == [0, 127, 255]  # fractions are dropped, as published
    with pytest.raises(DiagnosticError, match="VG0704"):
        restored(np.full((3, 2, 2), np.nan), Image(inverse=True))
    with pytest.raises(DiagnosticError, match="VG0713"):
        build("clip").pictures(values)


def test_batches(build: Any) -> None:
    red = PIL.Image.new("RGB", (40, 30), (255, 0, 0))
    alone = build("flamingo")(text=["<image>a", "<image>b<image>c"], images=[[red], [red, red]])
    assert alone["pixel_values"].shape == (2, 2, 1, 3, 224, 224)
    assert not alone["pixel_values"][0, 1].any() and alone["pixel_values"][1, 1].any()
    levels = [PIL.Image.new("L", (40, 30), level) for level in (10, 90, 200)]
    idefics = build("idefics")(text=["<image>a", "<image>b<image>c"], images=levels)
    assert idefics["pixel_values"].shape == (2, 2, 3, 224, 224)
    first = idefics["pixel_values"][..., 0, 0, 0]
    assert first[0, 0] < first[1, 0] < first[1, 1]
    assert not first[0, 1]


def test_clips_are_sampled(build: Any) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), (10 * i, 0, 0)) for i in range(20)]
    clip = build("flamingo")(text="<image>", videos=[Video(frames, fps=2.0)])["pixel_values"]
    assert clip.shape == (1, 1, 8, 3, 224, 224)  # 10 seconds at one frame a second, at most 8
    with pytest.raises(DiagnosticError, match="VG0707"):
        build("flamingo")(text="<image><image>", images=[frames[0], Video(frames[:3])])


def test_size_is_height_and_width_and_sizes_are_original() -> None:
    table = {"x": {"type": "processor.image", "size": [20, 30], "fit": "squash", "also": {"s": "sizes"}}}
    out = build_processor(table, {}, {})(x=PIL.Image.new("RGB", (7, 5)))
    assert out["x"].shape == (1, 3, 20, 30)
    assert out["s"].tolist() == [[5, 7]]
