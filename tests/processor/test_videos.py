"""Videos: frames by time, tokens that repeat the frame before, what is written of each step; against transformers where it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.architectures.common import processor
from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Video, build_processor
from vlmgraph.processor.expand import Expand, Layout
from vlmgraph.processor.frames_config import Frames, Prune
from vlmgraph.processor.native import patches, sample_times
from vlmgraph.processor.published import overlaid
from vlmgraph.processor.videos import changed

TABLE = Frames(temporal=1, prune=Prune(), stats="siglip", also={"kept": "keep"})


def photo(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stays(frames: np.ndarray, **fields: Any) -> list[list[bool]]:
    """Frames [t, h, w, 3] of bytes → which 28 x 28 blocks stay."""
    table = TABLE.model_copy(update=fields)
    rows, grid = patches(((frames.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2), table)
    return changed(rows, grid, table).tolist()


# ---- tokens that stay


def test_a_block_stays_where_its_pixels_moved() -> None:
    """Each block against the same block of the frame before, by the mean over its pixels and colours."""
    frames = np.repeat(np.asarray(photo(56, 84))[None], 3, axis=0).copy()
    frames[1:, 30, 60] = 255 - frames[1:, 30, 60]  # the block at row 1, column 2; the third frame is as the second
    wanted = np.ones((3, 6), dtype=bool)
    difference = np.abs(frames[1:].astype(float) - frames[:-1]).reshape(2, 2, 28, 3, 28, 3).mean((2, 4, 5))
    wanted[1:] = (difference * 2 > 0.1).reshape(2, 6)  # 255 times the difference of pixels in [-1, 1]
    wanted[2, 0] = True  # a frame keeps one token
    assert stays(frames) == wanted.tolist() and wanted[1].tolist() == [False] * 5 + [True]


def test_the_threshold_is_of_normalised_pixels() -> None:
    """One value of 2352 moves by 200 of 255: the mean is 0.085 of bytes and 0.17 of what the model sees. 100 are not enough."""
    frames = np.zeros((3, 28, 56, 3), dtype=np.uint8)
    frames[1, 5, 5, 0], frames[2, 5, 5, 0] = 200, 100
    assert stays(frames, prune=Prune(least=1)) == [[True, True], [True, False], [True, False]]
    frames[1, 5, 33, 0], frames[2, 5, 33, 0] = 100, 200
    assert stays(frames) == [[True, True], [True, False], [True, False]]
    assert stays(frames, prune=Prune(threshold=0.01)) == [[True] * 2] * 3


def test_the_frame_directly_before_counts() -> None:
    """What drifts slowly is dropped all the way, and what comes back stays."""
    slow = np.stack([np.full((28, 56, 3), i, dtype=np.uint8) for i in range(4)])
    assert stays(slow, prune=Prune(threshold=2.5)) == [[True, True], *[[True, False]] * 3]
    back = np.stack([np.full((28, 56, 3), i, dtype=np.uint8) for i in (9, 200, 9)])
    assert stays(back) == [[True, True]] * 3


def test_all_stays_of_one_frame_and_without_pruning() -> None:
    still = np.repeat(np.asarray(photo(56, 56))[None], 3, axis=0)
    assert stays(still[:1]) == [[True] * 4] and stays(still, prune=None) == [[True] * 4] * 3
    assert stays(still, prune=Prune(least=3)) == [[True] * 4, *[[True] * 3 + [False]] * 2]
    assert stays(still, merge=1)[1] == [True] + [False] * 15  # blocks of one patch


def test_published_counts() -> None:
    """VideoLLaMA 3 at its own size: 192 tokens of a frame; 207 of 16 equal ones, all 3072 where everything moves."""
    own = processor("videollama-3", None)
    still = own(videos=[Video([photo(336, 448)] * 16, fps=1.0)])
    assert still["video_grid_thw"].tolist() == [[16, 24, 32]] and still["video_merge_sizes"].tolist() == [2]
    assert int(still["video_compression_mask"].sum()) == 192 + 15
    moving = own(videos=[Video([photo(336, 448, seed=i) for i in range(16)], fps=1.0)])
    assert moving["video_compression_mask"].all() and moving["video_compression_mask"].shape == (3072,)
    picture = own(images=[photo(448, 448)])
    assert picture["image_grid_thw"].tolist() == [[1, 32, 32]] and picture["image_merge_sizes"].tolist() == [1]
    fewer = processor("videollama-3", None, None, "video")(images=[photo(448, 448)])
    assert fewer["image_grid_thw"].prod() // 4 == 256 and fewer["image_merge_sizes"].tolist() == [2]
    whole = processor("videollama-3", None, None, "align")(videos=[Video([photo(56, 56)] * 4, fps=1.0)])
    assert whole["video_compression_mask"].all()


# ---- what is written


def test_each_frame_is_written_with_its_time() -> None:
    own = processor("videollama-3")
    first, second = photo(112, 112), photo(112, 112, seed=1)
    out = own.ask("What?", videos=[Video([first] * 3 + [second] * 2, fps=2.0)])
    text = own.decode(out["input_ids"][0], skip_special=False)
    a = "<|video_pad|>"
    wanted = f"Time 0.0s:{16 * a},Time 1.0s:{a},Time 2.0s:{16 * a}\nWhat?"
    assert wanted in text and int(out["video_compression_mask"].sum()) == 33
    assert text.startswith("<|im_start|>user\nTime 0.0s:") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    both = own.ask("<video>and<image>?", videos=[[first, second]], images=[photo(28, 42)])
    text = own.decode(both["input_ids"][0], skip_special=False)
    assert f"Time 0.0s:{16 * a},Time 1.0s:{16 * a}\nand{'<|image_pad|>' * 20}\n?" in text  # 28 x 42 grow to 16 patches and more
    assert both["image_grid_thw"].tolist() == [[1, 4, 5]]


def test_two_videos_have_their_own_counts() -> None:
    own = processor("videollama-3")
    still, moving = [photo(112, 112)] * 2, [photo(112, 112), photo(112, 112, seed=1)]
    out = own(["<|video_pad|> a", "<|video_pad|> b"], videos=[Video(still, fps=1.0), Video(moving, fps=1.0)])
    pad = own.encoders["input_ids"].tokenizer.tokens["<|video_pad|>"]
    assert (out["input_ids"] == pad).sum(axis=1).tolist() == [17, 32] and out["video_compression_mask"].sum() == 49


def test_parts_are_joined() -> None:
    expand = Expand(part="[{seconds}]{tokens}", join=",", start="<", end=">")
    layout = Layout((({"seconds": "0.0"}, {"seconds": "1.5"}),), whole=False, counts=(3, 1))
    assert expand.written(layout.counted("*"), "??") == "<[0.0]***,[1.5]*>"
    assert expand.written(Layout(layout.rows, whole=False).counted("*"), "??") == "<[0.0]??,[1.5]??>"


def test_counts_without_a_template() -> None:
    """Where nothing is written of the steps the placeholder becomes the tokens that stay."""
    table = {"type": "processor.frames", "temporal": 1, "prune": {}, "stats": "siglip", "also": {"g": "grid", "k": "keep"}}
    text = {"type": "processor.text", "place": {"<v>": {"node": "n", "of": "v"}}, "pad": 0}
    own = build_processor({"v": table, "t": text}, {"<v>": 300}, lambda node, inputs: [int(g.prod()) // 4 for g in inputs["g"]], vocab=400)
    out = own(t="a <v> b", v=[[photo(392, 392)] * 3])
    assert (out["t"] == 300).sum() == out["k"].sum() == 196 + 2


def test_what_stays_has_to_go_somewhere() -> None:
    with pytest.raises(DiagnosticError, match=r"prune.*keep"):
        build_processor({"v": {"type": "processor.frames", "prune": {}}}, {}, {})


def test_fixed_tokens_of_a_video_are_dealt_out() -> None:
    """A node that makes twelve tokens of a video, whatever its size: four for each of three steps."""
    place = {"<v>": {"node": 12, "of": "v", "expand": {"part": "{seconds}{tokens}", "join": ";"}}}
    own = build_processor(
        {"v": {"type": "processor.frames", "temporal": 1, "fps": 1}, "t": {"type": "processor.text", "place": place}},
        {"<v>": 300},
        {},
        vocab=400,
    )
    out = own(t="<v>", v=[[photo(28, 28)] * 3])["t"][0].tolist()
    assert [i == 300 for i in out] == [False] * 3 + [True] * 4 + ([False] * 4 + [True] * 4) * 2


# ---- frames by time


def test_one_frame_a_second() -> None:
    assert sample_times(90, 30.0, 1.0, 1, 180, 1, "rate") == [0, 30, 60]
    assert sample_times(91, 30.0, 1.0, 1, 180, 1, "rate") == [0, 30, 60, 90]
    assert sample_times(5, 0.5, 1.0, 1, 180, 1, "rate") == [0, 1, 2, 3, 4]  # no frame is taken twice
    assert sample_times(300, 30.0, 1.0, 1, 4, 1, "rate") == [0, 90, 180, 270]
    assert sample_times(210, 30.0, 1.0, 1, 4, 1, "rate") == [0, 60, 120, 180]
    assert sample_times(240, 30.0, 1.0, 1, 4, 1, "rate") == [0, 60, 120, 210]  # of 0 ... 7 seconds 0, 2.33, 4.67, 7, cut off


def test_frames_share_the_pixels() -> None:
    """1024 tokens for all frames: the more there are, the smaller each is, never below `min_pixels` as long as that fits."""
    table = {
        "type": "processor.frames", "temporal": 1, "min_pixels": 12544, "max_pixels": 1024 * 784, "shared": True, "also": {"g": "grid"},
    }  # fmt: skip
    own = build_processor({"v": table}, {}, {})
    sizes = [own(v=[[photo(448, 448)] * n])["g"].tolist()[0] for n in (1, 4, 16, 60)]
    assert sizes == [[1, 32, 32], [4, 32, 32], [16, 16, 16], [60, 8, 8]]


# ---- against transformers

STEP = 2 / 255


def near(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    difference = np.abs(ours.astype(np.float64) - theirs)
    assert difference.max() <= STEP * 1.001 and (difference > STEP / 100).mean() < 0.01


@pytest.mark.parametrize("merge", [1, 2])
def test_pictures_as_in_transformers(merge: int, photos: dict[str, PIL.Image.Image]) -> None:
    pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

    size = {"shortest_edge": 16 * 196 * merge**2, "longest_edge": 400 * 196 * merge**2}
    reference = VideoLlama3ImageProcessorPil(merge_size=merge, size=size)
    fields = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"], "merge": merge}
    table = {
        "type": "processor.native", "temporal": 1, "stats": "siglip", "also": {"g": "grid", "m": "merges"}, **fields,
    }  # fmt: skip
    own = build_processor({"v": table}, {}, {})
    pictures = [*(photos[name] for name in ("china", "upright", "small", "pixel", "wide")), photos["flower"].resize((4000, 300))]
    ours, theirs = own(v=pictures), reference(pictures)
    assert ours["g"].tolist() == np.asarray(theirs["image_grid_thw"]).tolist()
    assert ours["m"].tolist() == np.asarray(theirs["image_merge_sizes"]).tolist() == [merge] * 6
    near(ours["v"], np.asarray(theirs["pixel_values"]))


def test_frames_as_in_transformers(photos: dict[str, PIL.Image.Image]) -> None:
    """Each frame has the pixels that the image processor gives it alone within its share; its video processor needs torchvision."""
    pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

    frames = [photos["china"].crop((x, 0, x + 300, 200)) for x in (0, 40, 80)]
    table = {"type": "processor.frames", "temporal": 1, "stats": "siglip", "shared": True, "min_pixels": 12544, "max_pixels": 120 * 784}
    ours = build_processor({"v": {**table, "also": {"g": "grid"}}}, {}, {})(v=[frames])
    reference = VideoLlama3ImageProcessorPil(merge_size=2, size={"shortest_edge": 12544, "longest_edge": 120 * 784 // 3})
    theirs = reference(frames)
    t, h, w = ours["g"].tolist()[0]
    assert np.asarray(theirs["image_grid_thw"]).tolist() == [[1, h, w]] * t
    near(ours["v"], np.asarray(theirs["pixel_values"]))


# ---- published configurations


def written(folder: Path, **keys: Any) -> dict[str, Any]:
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": "VideoLlama3VideoProcessor", **keys}))
    return overlaid({"v": {"type": "processor.frames", "prune": {"threshold": 0.1}}}, folder)["v"]


def test_published_keys(tmp_path: Path) -> None:
    table = written(
        tmp_path, size={"shortest_edge": 12544, "longest_edge": 99}, max_frames=9, fps=1, merge_size=2, use_token_compression=False
    )
    assert (table["min_pixels"], table["max_pixels"], table["max_frames"], table["prune"]) == (12544, 99, 9, None)
    assert written(tmp_path, use_token_compression=True)["prune"] == {}
    assert "sampling" not in written(tmp_path, do_sample_frames=False)
    assert written(tmp_path, do_sample_frames=True)["sampling"] == "starts"
    assert written(tmp_path, max_video_tokens=128000, cap_pixels_per_frame=True)["max_tokens"] == 115200
    assert written(tmp_path, max_video_tokens=128000)["max_tokens"] is None
    with pytest.raises(DiagnosticError, match="use_tokens"):
        written(tmp_path, use_tokens=True)
