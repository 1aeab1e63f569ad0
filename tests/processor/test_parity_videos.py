"""Videos of Qwen2-VL, Qwen2.5-VL and VideoLLaMA 3 against transformers' own functions.

Its video processors import torchvision, which these functions do not use: each is compiled by itself out of the installed source.
"""

from __future__ import annotations

import ast
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")

import torch

from tests.architectures.common import processor
from vlmgraph.processor import Video, build_processor
from vlmgraph.processor.frames_config import Frames, Prune
from vlmgraph.processor.native import patches, sample_times, smart_size
from vlmgraph.processor.videos import changed


def theirs(path: str, name: str, **around: Any) -> Any:
    """A function or method of transformers, without its decorators, in a namespace of its own."""
    root = find_spec("transformers")
    assert root is not None and root.origin is not None
    tree = ast.parse((Path(root.origin).parent / path).read_text(encoding="utf-8"))
    [found] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    found.decorator_list = []
    scope: dict[str, Any] = {"torch": torch, "math": math, **around}
    later = ast.parse("from __future__ import annotations").body  # names in annotations stay names
    exec(compile(ast.Module([*later, found], []), path, "exec"), scope)
    return scope[name]


QWEN = "models/qwen2_vl/video_processing_qwen2_vl.py"
LLAMA = "models/video_llama_3/video_processing_video_llama_3.py"
RATES = [(total, source, fps) for total in (4, 5, 7, 30, 61, 299, 1000, 5000) for source in (8.0, 23.976, 30.0) for fps in (0.5, 1.0, 2.0)]


@pytest.mark.parametrize(("multiple", "least", "most"), [(2, 4, 768), (1, 4, 180), (2, 4, 40)])
def test_sampled_frames(multiple: int, least: int, most: int) -> None:
    """As many frames under each rule, and under `starts` the same. By rounding the reference may name one too many, which is no frame."""
    sample = theirs(QWEN, "sample_frames")
    own = SimpleNamespace(num_frames=None, fps=None, temporal_patch_size=multiple, min_frames=least, max_frames=most)
    for total, source, fps in RATES:
        wanted = sample(own, SimpleNamespace(total_num_frames=total, fps=source), fps=fps).tolist()
        wanted = wanted[:-1] if wanted[-1] == total else wanted
        assert sample_times(total, source, fps, least, most, multiple, "starts") == wanted
        ends = sample_times(total, source, fps, least, most, multiple)
        assert len(ends) == len(wanted) and (ends[0], ends[-1]) == (0, total - 1)


SIZES = [(1, 1), (1, 150), (28, 28), (300, 4000), (4000, 300), (1080, 1920), (37, 23), (720, 1280), (100, 101)]


@pytest.mark.parametrize("path", [QWEN, LLAMA])
def test_sizes_of_frames(path: str) -> None:
    """Qwen2-VL: the bounds are of a frame, and where its tokens are capped, of a frame's share; VideoLLaMA 3: all frames share them."""
    resize = theirs(path, "smart_resize")
    rng = np.random.default_rng(4)
    for height, width in [*SIZES, *(tuple(int(n) for n in rng.integers(8, 1500, 2)) for _ in range(60))]:
        for count in (1, 2, 16, 180):
            if path == QWEN:
                table, low, high = Frames(max_tokens=None), 128 * 784, 768 * 784
            else:
                table, low, high = Frames(temporal=1, shared=True, min_pixels=12544, max_pixels=16384 * 784), 12544, 16384 * 784 // count
            most = high if path == LLAMA else table.max_pixels
            assert (table.min_pixels, table.multiple) == (low, 28) and (path == LLAMA or most == 768 * 784)
            assert smart_size(height, width, table, most) == resize(height, width, 28, low, high)


def frames(count: int, height: int, width: int) -> list[PIL.Image.Image]:
    rng = np.random.default_rng(count)
    return [PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("count", [4, 32, 120])
def test_capped_tokens(count: int) -> None:
    """`cap_pixels_per_frame`: nine tenths of `max_video_tokens`, shared by the steps of a video, bound its frames."""
    budget, bounds = 6000, {"shortest_edge": 3136, "longest_edge": 768 * 784}
    sizes: list[Any] = []
    resize = theirs(
        QWEN, "resize", SizeDict=SimpleNamespace, smart_resize=theirs(QWEN, "smart_resize"),
        super=lambda: SimpleNamespace(resize=lambda image, size, resample: sizes.append((size.height, size.width))),
    )  # fmt: skip
    own = SimpleNamespace(max_video_tokens=budget)
    resize(own, torch.empty(1, count, 3, 90, 160), SimpleNamespace(**bounds), None, 28, 2, True)
    table = {
        "type": "processor.frames", "min_pixels": bounds["shortest_edge"], "max_pixels": bounds["longest_edge"],
        "max_tokens": int(budget * 0.9), "also": {"g": "grid"},
    }  # fmt: skip
    made = build_processor({"v": table}, {}, {})(v=[frames(count, 90, 160)])
    t, h, w = made["g"].tolist()[0]
    assert t == count // 2 and [(14 * h, 14 * w)] == sizes


def test_patches_of_frames() -> None:
    """The reference's patchify on the same pixels: three frames, of which the last is repeated, and one picture a step."""
    cut = theirs(QWEN, "patchify")
    pixels = np.random.default_rng(0).random((3, 3, 56, 84), dtype=np.float32)
    for temporal in (1, 2):
        rows, grid = patches(pixels, Frames(temporal=temporal))
        wanted, *shape = cut(None, torch.from_numpy(pixels)[None], 14, 2, temporal)
        assert list(grid) == shape and np.array_equal(rows, wanted[0].numpy())


def test_seconds_of_a_step() -> None:
    """Qwen2.5-VL: steps of two frames, by the rate that is left after sampling."""
    from transformers.video_utils import VideoMetadata

    video = Video(frames(1, 60, 60) * 50, fps=8.0)
    out = processor("qwen2.5-vl")(videos=[video])
    chosen = sample_times(50, 8.0, 2.0, 4, 768, 2)
    rate = VideoMetadata(total_num_frames=50, fps=8.0, frames_indices=chosen).sampled_fps
    assert out["second_per_grid_ts"].tolist() == pytest.approx([2 / rate], rel=1e-6)
    assert out["video_grid_thw"][0, 0] == len(chosen) // 2


@pytest.mark.parametrize("merge", [1, 2])
def test_tokens_that_stay(merge: int) -> None:
    """The reference's mask of several videos at once, one of a single frame; pixels that move by a little, by a lot, not at all."""
    mask = theirs(LLAMA, "_get_compression_mask")
    rng = np.random.default_rng(5)
    table = Frames(temporal=1, merge=merge, prune=Prune(), also={"kept": "keep"})
    rows, grids, ours = [], [], []
    for t, h, w in ((6, 4, 8), (1, 4, 4), (4, 8, 4)):
        still = rng.random((1, 3, 14 * h, 14 * w), dtype=np.float32)
        moves = rng.random((t, 1, h, w)) < 0.3  # by patch
        step = np.kron(moves * rng.choice([1e-4, 3e-4, 6e-4, 0.3], (t, 1, h, w)), np.ones((1, 1, 14, 14)))
        part, grid = patches((still + step).astype(np.float32), table)
        rows.append(part)
        grids.append(grid)
        ours.append(changed(part, grid, table).ravel())
    sizes = torch.full((3,), merge)
    wanted = mask(None, torch.from_numpy(np.concatenate(rows)), torch.tensor(grids), sizes).numpy()
    assert np.array_equal(np.concatenate(ours), wanted) and 0.1 < wanted.mean() < 0.9


def test_times_in_the_prompt() -> None:
    """What the reference writes for a video: times of its frames, as many placeholders as tokens stay."""
    write = theirs("models/video_llama_3/processing_video_llama_3.py", "replace_video_token", logger=None)
    own = processor("videollama-3")
    first, second = frames(2, 112, 112)
    out = own(["<|video_pad|>?"], videos=[Video([first] * 25 + [second] * 15, fps=10.0)])
    given = {name: torch.from_numpy(out[name]) for name in ("video_grid_thw", "video_merge_sizes", "video_compression_mask")}
    times = [0.0, 1.0, 2.0, 3.0]
    given["video_compression_mask"] = SimpleNamespace(
        split=lambda sizes, whole=given["video_compression_mask"]: whole.split([int(n) for n in sizes])
    )
    wanted = write(SimpleNamespace(video_token="*"), {**given, "video_metadata": [SimpleNamespace(fps=10.0, timestamps=times)]}, 0)
    said = own.decode(out["input_ids"][0], skip_special=False).replace("<|video_pad|>", "*")
    assert said == f"{wanted}?" and [part.count("*") for part in wanted.split(",")] == [16, 1, 1, 16]
