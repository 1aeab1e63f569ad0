"""The whole picture and crops of it."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.ir.types import parse_type
from vlmgraph.processor import build_processor
from vlmgraph.processor.crops import crop_grid, cut, resampled
from vlmgraph.processor.crops_config import Crops

COVER = Crops(size=378, overlap=56)
NEAREST = Crops(size=378, choose="nearest", small=512)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(378, 378, (1, 1)), (800, 600, (2, 4)), (1000, 1000, (3, 3)), (1920, 1080, (2, 4)), (4000, 3000, (2, 4)), (1, 1, (1, 1)),
     (4000, 300, (1, 1)), (379, 4000, (9, 1))],
)  # fmt: skip
def test_published_grids(width: int, height: int, grid: tuple[int, int]) -> None:
    assert crop_grid(height, width, COVER) == grid


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(511, 100, (1, 1)), (512, 100, (1, 2)), (100, 512, (2, 1)), (600, 600, (2, 2)), (500, 512, (1, 1)), (700, 720, (2, 2)),
     (4000, 300, (1, 2)), (600, 400, (1, 1))],
)  # fmt: skip
def test_nearest_grids(width: int, height: int, grid: tuple[int, int]) -> None:
    """600 x 400 is as far from one column as from two: the published sum of distances, crossed as it is, decides for one."""
    assert crop_grid(height, width, NEAREST) == grid


def test_crops_overlap_and_cover_the_canvas() -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    config = Crops(size=20, overlap=4, max=8, stats=0.5)
    whole, parts, (rows, columns) = cut(picture, config)
    assert (rows, columns) == crop_grid(50, 70, config) and rows * columns > 3 and parts.shape == (rows * columns, 3, 20, 20)
    grid = parts.reshape(rows, columns, 3, 20, 20)
    assert np.array_equal(grid[:, :-1, ..., -8:], grid[:, 1:, ..., :8]) and np.array_equal(grid[:-1, :, :, -8:], grid[1:, :, :, :8])
    canvas = np.asarray(picture.resize((12 * columns + 8, 12 * rows + 8), PIL.Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1
    assert np.abs(grid[-1, -1] - canvas[-20:, -20:].transpose(2, 0, 1)).max() < 1e-6
    small = np.asarray(picture.resize((20, 20), PIL.Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1
    assert np.abs(whole - small.transpose(2, 0, 1)).max() < 1e-6


def test_the_view_of_a_canvas_is_not_smoothed() -> None:
    """Of 40 pixels made 20 each is the mean of the two around it; of 60 every third is read."""
    pixels = np.random.default_rng(0).random((3, 40, 60), dtype=np.float32)
    wanted = (pixels[:, ::2] + pixels[:, 1::2])[:, :, 1::3] / 2
    assert np.abs(resampled(pixels, 20) - wanted).max() < 1e-6


def test_all_inputs_of_an_entry() -> None:
    tables = {
        "views": {"type": "processor.crops", "overlap": 2, "max": 4, "also": {"parts": "crops", "grids": "grid"}},
        "input_ids": {"type": "processor.text", "place": {"<i>": 3}},
    }
    inputs = {"views": "image[N, 3, 12, 12]", "parts": "image[V, 3, 12, 12]", "grids": "index[N, 2]", "input_ids": "ids[B, T]"}
    ready = build_processor(tables, {"<i>": 300}, {}, inputs={name: parse_type(text) for name, text in inputs.items()})
    got = ready(text="<i> and <i>", images=[PIL.Image.new("RGB", size) for size in ((9, 9), (40, 40))])
    assert got["grids"].tolist() == [[1, 1], [2, 2]] and got["parts"].shape == (5, 3, 12, 12) and got["views"].shape == (2, 3, 12, 12)
    assert int((got["input_ids"] == 300).sum()) == 6
    with pytest.raises(DiagnosticError, match="leaves nothing of 12"):
        build_processor({"views": {**tables["views"], "overlap": 6, "size": 12}}, {}, {})
    with pytest.raises(DiagnosticError, match="makes square"):
        build_processor({"views": tables["views"]}, {}, {}, inputs={"views": parse_type("image[N, 3, 12, 14]")})
