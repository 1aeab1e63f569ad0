"""Qwen2-VL: sizes, packed patches, videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Video, build_processor
from vlmgraph.processor.config import Native
from vlmgraph.processor.native import grid_tokens, patches, sample_times, smart_size

SMALL = 28 * 28 * 1280


@pytest.mark.parametrize(
    ("size", "budget", "resized", "tokens"),
    [
        ((224, 224), 12_845_056, (224, 224), 64),
        ((448, 448), 12_845_056, (448, 448), 256),
        ((600, 800), 12_845_056, (588, 812), 609),
        ((1080, 1920), 12_845_056, (1092, 1932), 2691),
        ((1080, 1920), SMALL, (728, 1316), 1222),
        ((28, 28), 12_845_056, (56, 56), 4),
    ],
)
def test_published_sizes(size: tuple[int, int], budget: int, resized: tuple[int, int], tokens: int) -> None:
    config = Native(max_pixels=budget)
    assert smart_size(*size, config) == resized
    assert grid_tokens(np.array([[1, resized[0] // 14, resized[1] // 14]]), 2) == [tokens]


def test_aspect() -> None:
    assert smart_size(1, 200, Native()) == (28, 812)
    with pytest.raises(DiagnosticError, match=r"VG0707.*201 times"):
        smart_size(1, 201, Native())


def test_patch_order() -> None:
    """Each row against the pixels it must hold: blocks of 2 x 2 patches, within a patch colour, frame, row, column."""
    config = Native(patch=3, merge=2, temporal=2)
    frames = np.random.default_rng(0).random((4, 3, 12, 18), dtype=np.float32)
    rows, grid = patches(frames, config)
    assert grid == (2, 4, 6)
    assert rows.shape == (48, 3 * 2 * 9)
    index = 0
    for t in range(2):
        for block_row in range(2):
            for block_column in range(3):
                for r in range(2):
                    for c in range(2):
                        y, x = (2 * block_row + r) * 3, (2 * block_column + c) * 3
                        cut = frames[2 * t : 2 * t + 2, :, y : y + 3, x : x + 3]
                        assert np.array_equal(rows[index], cut.transpose(1, 0, 2, 3).ravel())
                        index += 1


def test_a_picture_is_a_video_of_two_equal_frames(build: Any, photos: dict[str, Any]) -> None:
    processor = build("qwen2-vl")
    table = Native(min_pixels=100_352, max_pixels=602_112)
    assert smart_size(427, 640, table) == (420, 644)
    image = photos["china"].resize((644, 420))
    out = processor(images=[image], videos=[[image, image]])
    assert np.array_equal(out["pixel_values"], out["pixel_values_videos"])
    assert out["image_grid_thw"].tolist() == out["video_grid_thw"].tolist() == [[1, 30, 46]]


def test_an_odd_last_frame_is_repeated(build: Any) -> None:
    frames = [PIL.Image.new("RGB", (364, 364), (60 * i, 0, 0)) for i in range(3)]
    out = build("qwen2-vl")(videos=[frames])
    assert out["video_grid_thw"].tolist() == [[2, 26, 26]]
    last = out["pixel_values_videos"][-1].reshape(3, 2, 14, 14)
    assert np.array_equal(last[:, 0], last[:, 1])
    first = out["pixel_values_videos"][0].reshape(3, 2, 14, 14)
    assert not np.array_equal(first[:, 0], first[:, 1])


def test_packing_is_concatenation(build: Any, photos: dict[str, Any]) -> None:
    processor = build("qwen2-vl")
    one, two = photos["small"], photos["pixel"]
    both = processor(images=[one, two])
    apart = [processor(images=image) for image in (one, two)]
    assert np.array_equal(both["pixel_values"], np.concatenate([a["pixel_values"] for a in apart]))
    assert np.array_equal(both["image_grid_thw"], np.concatenate([a["image_grid_thw"] for a in apart]))


def test_sampling() -> None:
    assert sample_times(300, 30.0, 2.0, 4, 768, 2)[:3] == [0, 16, 31]
    assert len(sample_times(300, 30.0, 2.0, 4, 768, 2)) == 20
    assert sample_times(300, 30.0, 2.0, 4, 768, 2)[-1] == 299
    assert sample_times(10, 30.0, 2.0, 4, 768, 2) == [0, 3, 6, 9]  # at least 4
    assert sample_times(3, 30.0, 2.0, 4, 768, 2) == [0, 2]
    assert sample_times(1, 30.0, 2.0, 4, 768, 2) == [0]
    assert len(sample_times(10_000, 10.0, 2.0, 4, 768, 2)) == 768


def test_videos_keep_their_token_budget(build: Any) -> None:
    """More frames, fewer pixels each; the budget holds for long videos too."""
    frame = PIL.Image.new("RGB", (640, 480))
    processor = build("qwen2-vl")
    few = processor(videos=[Video([frame] * 8, fps=2)])["video_grid_thw"]
    assert few.tolist() == [[4, 34, 46]]
    tight = build_processor({"v": {"type": "processor.frames", "max_tokens": 600, "also": {"g": "grid"}}}, {}, {})
    for count, fps in ((40, None), (400, 2.0)):
        out = tight(v=[Video([frame] * count, fps=fps)])
        assert 300 < grid_tokens(out["g"], 2)[0] <= 600


def test_video_faults(build: Any) -> None:
    processor = build("qwen2-vl")
    with pytest.raises(DiagnosticError, match="VG0706"):
        processor(videos=[Video([])])
    with pytest.raises(DiagnosticError, match=r"VG0707.*differ in size"):
        processor(videos=[[PIL.Image.new("RGB", (30, 30)), PIL.Image.new("RGB", (40, 30))]])
    with pytest.raises(DiagnosticError, match="VG0707"):
        processor(videos=[Video([PIL.Image.new("RGB", (30, 30))], fps=0)])


def test_an_animation_is_a_video(build: Any, tmp_path: Any) -> None:
    frames = [PIL.Image.new("RGB", (364, 364), (250 * (i % 2), 100, 0)) for i in range(8)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500, loop=0)
    out = build("qwen2-vl")(videos=str(path))
    assert out["video_grid_thw"].tolist() == [[4, 26, 26]]
