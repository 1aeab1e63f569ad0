"""Pictures cut into as many tiles as their resolution asks for, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.ir.types import parse_type
from vlmgraph.processor import Processor, build_processor
from vlmgraph.processor.expand import Expand, Layout
from vlmgraph.processor.published import overlaid
from vlmgraph.processor.split import scaled, split, tile_grid
from vlmgraph.processor.split_config import Split

EXPAND = {"part": "<f><r{row}c{column}>{tokens}", "row_end": "\n", "end": "\n<f><g>{tokens}<f>", "single": "<f><g>{tokens}<f>"}
TOKENS = {"<i>": 300, "<f>": 301, "<g>": 302}


def own(**fields: Any) -> Processor:
    """Tiles of 12 pixels with 3 tokens each, the long side 24: up to 2 x 2 tiles."""
    tables = {
        "pixel_values": {"type": "processor.split", "size": 12, "longest": 24, "stats": 0.5, "also": {"m": "mask"}, **fields},
        "input_ids": {"type": "processor.text", "place": {"<i>": {"node": "v", "expand": EXPAND}}},
    }
    return build_processor(tables, TOKENS, {"v": 3})


@pytest.mark.parametrize(
    ("height", "width", "resized", "grid"),
    [
        (1080, 1920, (820, 1456), (3, 4)),
        (600, 800, (1092, 1456), (3, 4)),
        (1000, 1000, (1456, 1456), (4, 4)),
        (300, 300, (1456, 1456), (4, 4)),
        (400, 1600, (364, 1456), (1, 4)),
        (1920, 1080, (1456, 820), (4, 3)),
        (1, 1000, (2, 1456), (1, 4)),
    ],
)
def test_published_sizes(height: int, width: int, resized: tuple[int, int], grid: tuple[int, int]) -> None:
    config = Split(size=364)
    assert scaled(height, width, config) == resized and tile_grid(height, width, config) == grid


def test_pictures_as_in_transformers(photos: dict[str, PIL.Image.Image]) -> None:
    """The same tiles, the same mask, and pixels within one 8-bit step; pictures of several sizes in two samples."""
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    rng = np.random.default_rng(3)
    shapes = [(1, 1), (300, 4000), (17, 4), (61, 56), (56, 56), *(tuple(rng.integers(1, 300, 2)) for _ in range(6))]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes] + [photos["china"]]
    for longest, cut in ((168, True), (224, True), (100, True), (56, True), (168, False)):
        config = Split(size=56, longest=longest, cut=cut, resample="lanczos", stats=0.5, also={"m": "mask"})
        given = {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": 56}, "do_image_splitting": cut}
        theirs = Idefics3ImageProcessorPil(**given, image_mean=[0.5] * 3, image_std=[0.5] * 3, return_row_col_info=True)
        wanted = theirs([pictures[:7], pictures[7:]], return_tensors="np")
        got = split("x", config, pictures, [7, len(pictures) - 7])
        layouts = got["x.layouts"]
        assert [len(one.rows) for one in layouts] == [n for sample in wanted["rows"] for n in sample]
        assert [len(one.rows[0]) if one.rows else 0 for one in layouts] == [n for sample in wanted["cols"] for n in sample]
        assert np.array_equal(got["m"], wanted["pixel_attention_mask"]) and got["x"].shape == wanted["pixel_values"].shape
        assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255


def test_tiles_row_by_row_and_the_whole_picture_last() -> None:
    """Four colours of quarters, and all of them on the last tile."""
    quarters = np.zeros((24, 24, 3), dtype=np.uint8)
    quarters[:12, 12:] = 80
    quarters[12:, :12] = 160
    quarters[12:, 12:] = 240
    out = own(resample="nearest")(images=[PIL.Image.fromarray(quarters)])["pixel_values"]
    levels = np.unique(out[0, :4].reshape(4, -1), axis=1)
    assert out.shape == (1, 5, 3, 12, 12) and levels.shape == (4, 1)
    assert np.allclose(levels[:, 0], np.array([0, 80, 160, 240]) / 127.5 - 1, atol=1e-6)
    assert len(np.unique(out[0, 4])) == 4


def test_written_tile_by_tile() -> None:
    """2 x 1 tiles, then a picture of one tile; the lines between are the text's, and everything that stands for pixels counts."""
    wide, small = PIL.Image.new("RGB", (24, 12)), PIL.Image.new("RGB", (12, 12))
    made = own(longest=24)
    both = made("a<i>b<i>", images=[wide, small])
    cell = "<i>" * 3
    lines = "".join(f"<f><r{r}c{c}>{cell}" + "\n" * (c == 2) for r in (1, 2) for c in (1, 2))
    text = f"a<f><r1c1>{cell}<f><r1c2>{cell}\n\n<f><g>{cell}<f>b{lines}\n<f><g>{cell}<f>"
    assert both["input_ids"][0].tolist() == [p.id for p in made.encoders["input_ids"].tokenizer.encode(text)]
    assert both["pixel_values"].shape == (1, 3 + 5, 3, 12, 12)
    alone = own(longest=12)("<i>", images=small)["input_ids"][0].tolist()
    assert alone == [301, 302, 300, 300, 300, 301]
    labels = made(["a<i>"], images=[wide], train=True)["input_ids"]
    assert labels[0].tolist().count(300) == 9


def test_padding_behind_the_last_tile() -> None:
    wide, square = PIL.Image.new("RGB", (24, 12), (9, 9, 9)), PIL.Image.new("RGB", (24, 24), (9, 9, 9))
    out = own()(["<i>", "x", "<i>"], images=[wide, square])
    assert out["pixel_values"].shape == (3, 5, 3, 12, 12) and out["m"].shape == (3, 5, 12, 12)
    assert out["m"].any((2, 3)).tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 5]
    assert not out["pixel_values"][0, 3:].any() and not out["pixel_values"][1].any() and out["pixel_values"][2].all()


def test_templates() -> None:
    """Start, parts with their number, end of rows, end; a picture that was not cut has the end alone where nothing else is said."""
    expand = Expand(start="[", part="<{index}:{row:02}/{column}>{tokens}", row_end=";", end="{tokens}]")
    assert expand.written(Layout.grid(2, 1), "*") == "[<1:01/1>*;<2:02/1>*;*]"
    assert expand.written(Layout(), "*") == "*]"
    assert Layout.grid(2, 3).entries == 7 and Layout().entries == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"part": "no tokens"}, "VG0701"),
        ({"part": "{tokens}{tokens}"}, "VG0701"),
        ({"single": "{row}"}, "VG0701"),
        ({"row_end": "{row}"}, "VG0701"),
        ({"end": "no whole picture"}, "VG0701.*is not cut into"),
        ({"middle": "x"}, "VG0701"),
    ],
)
def test_templates_that_cannot_be(change: dict[str, str], code: str) -> None:
    tables = {
        "pixel_values": {"type": "processor.split", "size": 12},
        "input_ids": {"type": "processor.text", "place": {"<i>": {"node": "v", "expand": EXPAND | change}}},
    }
    with pytest.raises(DiagnosticError, match=code):
        build_processor(tables, TOKENS, {"v": 3})


def test_published_configuration(tmp_path: Path) -> None:
    """preprocessor_config.json goes over the table; what cannot be honoured is named."""
    file = tmp_path / "preprocessor_config.json"
    config = {"size": {"longest_edge": 728}, "max_image_size": {"longest_edge": 364}, "do_image_splitting": False, "resample": 1}
    file.write_text(json.dumps({**config, "do_pad": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    table = overlaid({"pixel_values": {"type": "processor.split"}}, tmp_path)["pixel_values"]
    assert Split(**{k: v for k, v in table.items() if k != "type"}).model_dump(include={"size", "longest", "cut", "resample"}) == {
        "size": 364, "longest": 728, "cut": False, "resample": "lanczos"
    }  # fmt: skip
    config["video_sampling"] = {"fps": 2, "max_frames": 8, "video_size": {"longest_edge": 400}}
    file.write_text(json.dumps(config))
    table = overlaid({"pixel_values": {"type": "processor.split", "video": {"trim": 0.5}}}, tmp_path)["pixel_values"]
    assert table["video"] == {"trim": 0.5, "fps": 2, "max_frames": 8, "longest": 400}
    for key, value in (
        ("do_pad", False),
        ("video_sampling", {"fps": 2, "by": "scene"}),
        ("size", {"shortest_edge": 3}),
        ("max_image_size", [364]),
        ("split_mode", "x"),
    ):
        file.write_text(json.dumps({**config, key: value}))
        with pytest.raises(DiagnosticError, match=f"VG0701.*{key}"):
            overlaid({"pixel_values": {"type": "processor.split", "video": {"fps": 1}}}, tmp_path)


def test_the_size_of_a_tile_is_that_of_the_input() -> None:
    tables = {"pixel_values": {"type": "processor.split", "longest": 24}}
    made = build_processor(tables, {}, {}, inputs={"pixel_values": parse_type("image[B, M, 3, 12, 12]")})
    assert made(images=[PIL.Image.new("RGB", (24, 12))])["pixel_values"].shape == (1, 3, 3, 12, 12)
    with pytest.raises(DiagnosticError, match=r"VG0717.*square tiles"):
        build_processor(tables, {}, {}, inputs={"pixel_values": parse_type("image[B, M, 3, 12, 14]")})


def test_pictures_that_are_not_cut() -> None:
    tables = {
        "pixel_values": {"type": "processor.image", "size": 12},
        "input_ids": {"type": "processor.text", "place": {"<i>": {"node": "v", "expand": EXPAND}}},
    }
    with pytest.raises(DiagnosticError, match=r"VG0701.*`pixel_values` is not cut into"):
        build_processor(tables, TOKENS, {"v": 3})
