"""Qwen2.5-VL (arXiv 2502.13923): windows in the tower, positions of video frames by the second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.common import close, fresh, graph, lively, noise, placed, published, random_ids, spec
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.nn.mask import attention_mask
from vlmgraph.nn.positions import MropePositions
from vlmgraph.nn.rope import grid_places
from vlmgraph.processor import Video
from vlmgraph.processor.config import Native
from vlmgraph.processor.model import model_processor
from vlmgraph.processor.native import patches
from vlmgraph.report.measure import report
from vlmgraph.train.stage import begin
from vlmgraph.weights.import_config import import_config

RULES = ("segments", "window_2d")
TEXT: dict[str, Any] = {
    "hidden_act": "silu", "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "sliding_window": 32768, "use_sliding_window": False,
}  # fmt: skip
VISION: dict[str, Any] = {
    "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
    "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2, "temporal_patch_size": 2,
}  # fmt: skip
PUBLISHED: dict[str | None, dict[str, Any]] = {
    None: {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
           "max_window_layers": 28, "tie_word_embeddings": False, "vocab_size": 152064,
           "vision_config": {**VISION, "out_hidden_size": 3584}},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 2,
           "max_window_layers": 70, "tie_word_embeddings": True, "vocab_size": 151936,
           "vision_config": {**VISION, "out_hidden_size": 2048}},
    "72b": {"hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8,
            "max_window_layers": 80, "tie_word_embeddings": False, "vocab_size": 152064,
            "vision_config": {**VISION, "intermediate_size": 3456, "out_hidden_size": 8192}},
}  # fmt: skip
"""The keys of the released files, which have those of the text part at the top."""


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("qwen2.5-vl")


def written(folder: Path, **keys: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "qwen2_5_vl", **TEXT, **keys}))
    return path


# ---- what was published


@pytest.mark.parametrize(
    ("size", "total", "visual"),
    [(None, 8_292_166_656, 676_550_144), ("3b", 3_754_622_976, 668_684_288), ("72b", 73_410_777_344, 704_573_696)],
)
def test_parameters(size: str | None, total: int, visual: int, tmp_path: Path) -> None:
    counts = published("qwen2.5-vl", size)
    assert counts["total"] == total and sum(n for id, n in counts.items() if id.startswith("visual")) == visual
    imported = import_config(written(tmp_path, **PUBLISHED[size])).spec
    (tmp_path / "own.toml").write_text("")
    again = elaborate(vlmgraph.read_spec(imported))
    assert report(again).total == total
    tower: Any = again.components["visual.vision"]
    wanted: Any = graph("qwen2.5-vl", size).components["visual.vision"]
    assert tower.sequence == wanted.sequence and tower.variants["local"].window == wanted.variants["local"].window == 8
    assert [i for i, kind in enumerate(tower.sequence) if kind == "full"] == [7, 15, 23, 31]
    assert again.components["positions"] == graph("qwen2.5-vl", size).components["positions"]
    assert again.components["llm"].sense() == graph("qwen2.5-vl", size).components["llm"].sense()


@pytest.mark.parametrize("size", [None, "3b"])
def test_parameters_are_those_of_the_reference(size: str | None) -> None:
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    words = {k: v for k, v in {**TEXT, **PUBLISHED[size]}.items() if k not in ("vision_config", "rope_theta", "rope_scaling")}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = tf.Qwen2_5_VLConfig(
        vision_config=PUBLISHED[size]["vision_config"], text_config={**words, "rope_parameters": rope}, tie_word_embeddings=size == "3b"
    )
    with torch.device("meta"):
        reference = tf.Qwen2_5_VLForConditionalGeneration(config)
    assert sum(p.numel() for p in reference.parameters()) == published("qwen2.5-vl", size)["total"]


@pytest.mark.parametrize(
    ("key", "value"), [("fullatt_block_indexes", [[7]]), ("window_size", "112"), ("patch_size", [14, 14]), ("hidden_act", "mish")]
)
def test_what_is_refused_is_named(key: str, value: Any, tmp_path: Path) -> None:
    keys = {**PUBLISHED[None], "vision_config": {**PUBLISHED[None]["vision_config"], key: value}}
    with pytest.raises(DiagnosticError, match=key):
        import_config(written(tmp_path, **keys))


# ---- windows


def groups(*grid: list[int], window: int = 8) -> list[list[int]]:
    """Patches that see each other, by the first of them."""
    table = torch.tensor(grid)
    places, frames = grid_places(table, int(table.prod(1).sum()), 2)
    mask = attention_mask(RULES, places.shape[1], segments=frames[None], window=window, places=places)
    assert mask is not None
    seen = {tuple(row.nonzero()[:, 0].tolist()) for row in mask[0, 0]}
    assert sum(map(len, seen)) == places.shape[1]  # no patch is in two
    return [list(group) for group in sorted(seen)]


@pytest.mark.parametrize(
    ("grid", "lengths"),
    [
        ([1, 16, 16], [64] * 4),
        ([1, 20, 36], [64] * 8 + [32] * 6 + [16]),
        ([2, 8, 8], [64, 64]),
        ([1, 18, 18], [64] * 4 + [16] * 4 + [4]),
    ],
)
def test_windows_of_published_size(grid: list[int], lengths: list[int]) -> None:
    """8 x 8 patches; smaller at the border, never padded, never over two frames."""
    assert sorted(map(len, groups(grid)), reverse=True) == lengths


def test_windows_are_squares_of_merged_cells() -> None:
    first = groups([1, 16, 16])[0]
    assert sorted({place // 4 for place in first}) == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]
    assert len(groups([1, 8, 8], [1, 8, 8])) == 2  # two images are two windows


def packed(pixels: Tensor) -> tuple[Tensor, Tensor]:
    rows, grid = patches(pixels.numpy(), Native())
    return torch.from_numpy(rows), torch.tensor([grid])


@torch.no_grad()
def states(model: CompiledModel, pixels: Tensor, rules: Any = None) -> dict[str, Tensor]:
    """Hidden states of the tower behind layers 1 (windows) and 2 (full), and its output; under other rules where given."""
    rows, grid = packed(pixels)
    vision: Any = model.visual.vision  # type: ignore[union-attr]
    kept = vision.rules
    try:
        vision.rules = kept if rules is None else (rules,) * len(kept)
        return vision(rows, grid=grid, taps=(1, 2))
    finally:
        vision.rules = kept


def test_a_pixel_stays_in_its_window_until_a_full_layer(model: CompiledModel) -> None:
    """Windows of 4 x 4 patches here, 8 x 8 patches in all: a change in the first touches its 16 patches, then all."""
    pixels = noise(2, 3, 112, 112)
    other = pixels.clone()
    other[:, :, 3, 5] += 1
    before, after = states(model, pixels), states(model, other)
    moved = (before["hidden.1"] != after["hidden.1"]).any(-1)
    assert moved.nonzero()[:, 0].tolist() == groups([1, 8, 8], window=4)[0] and int(moved.sum()) == 16
    assert bool((before["hidden.2"] != after["hidden.2"]).any(-1).all())
    before, after = states(model, pixels, RULES), states(model, other, RULES)
    assert int((before["out"] != after["out"]).any(-1).sum()) == 16


def test_windows_are_full_attention_in_small_images(model: CompiledModel) -> None:
    small, large = noise(2, 3, 56, 56), noise(2, 3, 56, 112)
    close(states(model, small)["out"], states(model, small, ("segments",))["out"], 1e-6)
    assert float((states(model, large)["out"] - states(model, large, ("segments",))["out"]).norm()) > 0.1


# ---- time


def rows(seconds: float | None, frames: int = 3, video: bool = True) -> list[list[int]]:
    """Positions of two words, a video (or an image) of merged 1 x 2 tokens a frame, and one word."""
    op = MropePositions(image=90, video=91, per_second=2.0)
    ids = torch.tensor([[1, 2, *[91 if video else 90] * (2 * frames), 3]])
    grid = torch.tensor([[frames, 2, 4]])
    given: dict[str, Any] = {"video_grid" if video else "image_grid": grid}
    out = op(ids, **given, seconds=None if seconds is None else torch.tensor([seconds]))
    assert int(out["next"]) == int(out["positions"].max()) + 1
    return out["positions"][:, 0].tolist()


def test_frames_stand_by_the_second() -> None:
    time, height, width = rows(1.0)
    assert time[2:] == [2, 2, 4, 4, 6, 6, 7] and height[2:] == [2] * 6 + [7] and width[2:] == [2, 3] * 3 + [7]
    assert rows(2.0)[0][2:] == [2, 2, 6, 6, 10, 10, 11]  # half as many frames a second: twice as far apart
    assert rows(1.0, 5)[0][2 + 2 * 4] == rows(2.0)[0][2 + 2 * 2]  # the same second, the same position
    assert rows(0.7)[0][2:8] == [2, 2, 3, 3, 4, 4]  # 1.4 and 2.8, rounded down
    assert rows(None) == rows(1.0)


def test_images_are_not_stretched() -> None:
    assert rows(5.0, 1, video=False) == rows(None, 1, video=False) == [[0, 1, 2, 2, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 4]]


def test_the_processor_says_how_long_a_step_is() -> None:
    processor = model_processor(spec("qwen2.5-vl", "tiny"), graph("qwen2.5-vl", "tiny"))
    frame = PIL.Image.fromarray(np.full((48, 64, 3), 90, dtype=np.uint8))
    out = processor.ask("What?", videos=[Video([frame] * 48, fps=8.0), Video([frame] * 4), Video([frame] * 2, fps=0.5)])
    assert out["second_per_grid_ts"].tolist() == [1.0, 1.0, 4.0]  # two of two a second; taken for that; all of one every other second
    assert "second_per_grid_ts" not in processor.ask("What?", images=[frame])


# ---- preferences


def test_preferences_train_all_but_the_tower() -> None:
    """A policy that is its own reference is at log 2; copies have no parameters that train and count nowhere."""
    own = fresh("qwen2.5-vl", variant="dpo")
    names = set(begin(own, "dpo"))
    pixels, grid = packed(noise(2, 3, 56, 56))
    batch: dict[str, Tensor] = {}
    for name, seed in (("chosen", 1), ("rejected", 2)):
        ids = placed(random_ids(1, 12, seed=seed), 305, (0, 2, 4))
        batch |= {f"{name}_input_ids": ids, f"{name}_labels": ids, f"{name}_pixel_values": pixels, f"{name}_image_grid_thw": grid}
    loss = own.programs["objective.dpo"](**batch)["loss"]
    close(loss.detach(), torch.tensor(2.0).log(), 1e-6)
    loss.backward()
    assert {n for n, p in own.named_parameters() if p.grad is not None} == names
    assert {n.partition(".")[0] for n in names} == {"visual", "embed", "llm", "head"} and not any(
        n.startswith("visual.vision") for n in names
    )
