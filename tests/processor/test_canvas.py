"""Pictures in the tiles that hold them best (Llama 3.2-Vision), and which tiles a text sees, against transformers and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import vlmgraph
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.processor.canvas import arranged, canvases, inner_size, seen_tiles
from vlmgraph.processor.canvas_config import Canvas
from vlmgraph.processor.config import CLIP_MEAN, CLIP_STD
from vlmgraph.processor.model import model_processor

STEP = 1 / 255 / 0.26130258
SIZES = [(1, 1), (30, 44), (56, 56), (57, 56), (60, 80), (108, 192), (200, 50), (113, 112), (400, 30), (30, 400), (4000, 300), (170, 170)]


def noise(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "tiles", "inner"),
    [
        ((300, 300), (1, 1), (560, 560)),
        ((560, 560), (1, 1), (560, 560)),
        ((600, 800), (2, 2), (600, 800)),
        ((1080, 1920), (2, 2), (630, 1120)),
        ((2000, 500), (4, 1), (2000, 500)),
        ((500, 2300), (1, 4), (486, 2240)),
        ((5000, 10), (4, 1), (2240, 4)),
    ],
)
def test_published_canvases(size: tuple[int, int], tiles: tuple[int, int], inner: tuple[int, int]) -> None:
    config = Canvas(size=560, max=4)
    assert arranged(*size, config) == tiles and inner_size(*size, *tiles, config) == inner


def test_pixels_and_arrangements(photos: dict[str, Any]) -> None:
    """A sample with two pictures, one with none and one with one, and every size by itself."""
    reference_of = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    reference = reference_of.MllamaImageProcessorPil(size={"height": 56, "width": 56}, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD))
    config = Canvas(size=56, max=4, resample="bilinear", also={"ids": "aspects", "there": "mask"})
    pictures = [photos["china"], *(noise(*size) for size in SIZES)]
    for items, groups in [*(([p], [1]) for p in pictures), ([pictures[5], pictures[2], pictures[4]], [2, 0, 1])]:
        ours = canvases("x", config, items, groups)
        stops = np.cumsum([0, *groups])
        theirs = reference([items[a:b] for a, b in zip(stops, stops[1:])]) if 0 not in groups else None
        if theirs is None:  # the reference does not take samples without pictures
            theirs = reference([items[:2], items[2:]])
            assert not ours["x"][1].any() and not ours["ids"][1].any() and ours["there"][1].tolist() == [[1, 0, 0, 0]] * 2
            ours = {name: value[[0, 2]] for name, value in ours.items()}
        assert np.abs(ours["x"] - np.asarray(theirs["pixel_values"])).max() <= STEP / 100
        assert ours["ids"].tolist() == np.asarray(theirs["aspect_ratio_ids"]).tolist()
        assert ours["there"].tolist() == np.asarray(theirs["aspect_ratio_mask"]).tolist()
        assert ours["x.tiles"].sum(-1)[ours["ids"] > 0].tolist() == [n for row in theirs["num_tiles"] for n in row]


@pytest.mark.parametrize(
    "other", [[2, 7, 3, 4, 2, 2, 2, 2], [2, 2, 2, 7, 3, 3, 3, 3], [7, 7, 4, 7, 4, 7, 7, 7]], ids=["one", "later", "rows"]
)
def test_seen_tiles(other: list[int]) -> None:
    """Up to the next picture, those in a row together, the last to the end."""
    reference = pytest.importorskip("transformers.models.mllama.processing_mllama")
    ids = np.array([[7, 4, 7, 7, 4, 4, 7, 4], other])
    tiles = [[4, 1, 2, 3, 1, 1], [3, 2, 4, 1, 1, 1]]
    counts = [(row == 7).sum() for row in ids]
    there = np.zeros((2, max(counts), 4), dtype=bool)
    for b, count in enumerate(counts):
        for m in range(count):
            there[b, m, : tiles[b][m]] = True
    sparse = [reference.get_cross_attention_token_mask(row.tolist(), 7) for row in ids]
    wanted = reference.convert_sparse_cross_attention_mask_to_dense(sparse, [t[:n] for t, n in zip(tiles, counts)], 4, ids.shape[1])
    assert seen_tiles(ids, {7}, there).tolist() == wanted.tolist()
    by_hand = [[m for m in range(4) if there[0, m, 0] and row[m].any()] for row in seen_tiles(ids, {7}, there)[0]]
    assert by_hand == [[0], [0], [1], [1, 2], [1, 2], [1, 2], [3], [3]]


def test_a_conversation_with_pictures() -> None:
    """The placeholder is one token; what the model is fed fits its declared types and runs."""
    spec = vlmgraph.read_spec("llama-3.2-vision", size="tiny")
    processor = model_processor(spec, elaborate(spec))
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}, {"type": "text", "text": "?"}]
    made = processor(messages=[{"role": "user", "content": content}], images=[noise(20, 20), noise(56, 90)])
    ids = made["input_ids"][0]
    assert ids[0] == 300 and (ids == 310).sum() == 2 and made["pixel_values"].shape == (1, 2, 4, 3, 28, 28)
    assert made["aspect_ratio_ids"].tolist() == [[1, 6]] and made["cross_attention_mask"].shape == (1, len(ids), 2, 4)
    first, second = np.flatnonzero(ids == 310)
    assert made["cross_attention_mask"][0].any(-1).argmax(0).tolist() == [first, second]
    assert made["cross_attention_mask"][0, -1].tolist() == [[0] * 4, [1] * 4]
    train = processor(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}], train=True)
    learned = train["labels"][0][train["labels"][0] != -100]
    assert learned.tolist() == [*b"bc", 306] or learned.tolist()[:2] == [*b"bc"], "the answer and what ends it"
    assert "cross_attention_mask" not in train


def test_published_configuration(tmp_path: Path) -> None:
    """Keys of preprocessor_config.json: the tile's side and the number of tiles; others are refused by name."""
    spec = vlmgraph.read_spec("llama-3.2-vision", size="tiny")
    written = {
        "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "image_mean": list(CLIP_MEAN),
        "image_processor_type": "MllamaImageProcessor", "image_std": list(CLIP_STD), "max_image_tiles": 4, "resample": 2,
        "rescale_factor": 1 / 255, "size": {"height": 28, "width": 28},
    }  # fmt: skip
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(written))
    assert model_processor(spec, elaborate(spec), tmp_path)(images=noise(5, 5))["pixel_values"].shape == (1, 1, 4, 3, 28, 28)
    for key, value in (("do_pad", False), ("do_resize", False), ("size", {"longest_edge": 28}), ("tile_overlap", 3)):
        path.write_text(json.dumps({**written, key: value}))
        with pytest.raises(DiagnosticError, match=key):
            model_processor(spec, elaborate(spec), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"processor.pixel_values.max": 6}, "makes 6 tiles of a picture, the input is image[B, M, 4, 3, 28, 28]"),
        ({"processor.pixel_values.size": 14}, "makes pictures of 14 x 14"),
        ({"processor.pixel_values": {"type": "processor.image", "also": {"remove": True}}}, "no placeholder stands for pictures in tiles"),
    ],
)
def test_faults_of_the_table(change: dict[str, Any], said: str) -> None:
    found = vlmgraph.check(vlmgraph.read_spec("llama-3.2-vision", size="tiny", overrides=change))
    assert any(said in d.message for d in found), found
