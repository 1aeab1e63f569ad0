"""Pictures that keep their aspect ratio, as quarters too, and how they are written between their tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Processor, build_processor
from vlmgraph.processor.aspect import aspect, kept
from vlmgraph.processor.aspect_config import Aspect
from vlmgraph.processor.published import overlaid

EXPAND = {"part": "<f>{tokens}", "end": "<f>{tokens}<f>", "single": "<f>{tokens}<f>"}
TOKENS = {"<i>": 300, "<f>": 301, "<e>": 302}
IMAGE, AROUND, END = 300, 301, 302


def own(quarters: bool = False, kind: str = "processor.text", **text: Any) -> Processor:
    """Pictures of 4 to 12 pixels with two tokens each."""
    tables = {
        "pixel_values": {"type": "processor.aspect", "shortest": 4, "longest": 12, "quarters": quarters, "also": {"m": "mask"}},
        "input_ids": {"type": kind, "place": {"<i>": {"node": "v", "expand": EXPAND}}, **text},
    }
    return build_processor(tables, TOKENS, {"v": 2})


def picture(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (width, height), (200, 10, 10))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (980, 735, (980, 735)),
        (300, 4000, (378, 980)),
        (4000, 300, (980, 378)),
        (1, 1, (378, 378)),
        (500, 600, (500, 600)),
        (2000, 1500, (980, 735)),
        (1000, 1000, (980, 980)),
        (100, 600, (378, 600)),
    ],
)
def test_published_sizes(height: int, width: int, size: tuple[int, int]) -> None:
    assert kept(height, width, Aspect()) == size


def test_pictures_as_in_transformers(photos: dict[str, PIL.Image.Image]) -> None:
    """The same sizes, the same mask, pixels within one 8-bit step; pictures of several sizes in two samples, whole and quartered."""
    pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    rng = np.random.default_rng(3)
    shapes = [(300, 4000), (4000, 300), (17, 4), (61, 56), (2, 3), *(tuple(rng.integers(2, 150, 2)) for _ in range(3))]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes] + [photos["china"]]
    for quarters, shortest, longest in ((False, 30, 70), (True, 30, 70), (False, 40, 41)):
        given = pictures if quarters else [*pictures, PIL.Image.new("RGB", (1, 1)), PIL.Image.new("RGB", (900, 1))]
        config = Aspect(shortest=shortest, longest=longest, quarters=quarters, resample="bilinear", stats="siglip", also={"m": "mask"})
        theirs = Idefics2ImageProcessorPil(size={"shortest_edge": shortest, "longest_edge": longest}, do_image_splitting=quarters)
        wanted = theirs([given[:4], given[4:]], return_tensors="np")
        got = aspect("x", config, given, [4, len(given) - 4])
        assert np.array_equal(got["m"], wanted["pixel_attention_mask"]) and got["x"].shape == wanted["pixel_values"].shape
        assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 * 2 / 255
        assert not got["x"][~np.broadcast_to(got["m"].astype(bool)[:, :, None], got["x"].shape)].any()
        assert [layout.entries for layout in got["x.layouts"]] == [5 if quarters else 1] * len(given)


def test_tokens_around() -> None:
    """One token stays where what ends a picture begins the next, in a row of pictures too, and words keep apart from it."""
    one = own(once=["<f>"], gap=True)
    ids = one("<i><i> <i>a", [picture(4, 4)] * 3)["input_ids"][0].tolist()
    assert ids == [AROUND, IMAGE, IMAGE, AROUND, IMAGE, IMAGE, AROUND, 32, AROUND, IMAGE, IMAGE, AROUND, 32, 97]
    assert own(gap=True)("<i><e>", [picture(4, 4)])["input_ids"][0].tolist() == [AROUND, IMAGE, IMAGE, AROUND, END]
    assert own()("<i><i>a", [picture(4, 4)] * 2)["input_ids"][0].tolist() == [AROUND, IMAGE, IMAGE, AROUND] * 2 + [97]
    quartered = own(quarters=True, once=["<f>"])("<i><i>", [picture(4, 4)] * 2)
    assert quartered["input_ids"][0].tolist() == [AROUND, IMAGE, IMAGE] * 10 + [AROUND] and quartered["pixel_values"].shape[:2] == (1, 10)


def test_labels_stay_at_their_words_behind_a_gap() -> None:
    roles = {"user": "{text}", "assistant": "{text}<e>"}
    made = own(kind="processor.chat", gap=True, roles=roles, also={"labels": "labels"})
    said = [{"role": "user", "content": "<i>abc"}, {"role": "assistant", "content": "xy"}]
    row = made(messages=said, images=[picture(4, 4)], train=True)
    assert row["input_ids"][0].tolist()[4:] == [32, 97, 98, 99, 120, 121, END]
    assert row["labels"][0].tolist() == [-100] * 8 + [120, 121, END]


def test_pictures_without_quarters() -> None:
    with pytest.raises(DiagnosticError, match="1 x 9 pixels has no quarters"):
        own(quarters=True)("<i>", [picture(9, 1)])
    assert own()("<i>", [picture(9, 1)])["pixel_values"].shape == (1, 1, 3, 9, 4)


def test_faults_of_the_table() -> None:
    for fields, said in (({"shortest": 13}, "shortest 13 is above longest 12"), ({"also": {"m": "sizes"}}, "not one of mask")):
        with pytest.raises(DiagnosticError, match=said):
            build_processor({"pixel_values": {"type": "processor.aspect", "longest": 12, "shortest": 4, **fields}}, {}, {})
    with pytest.raises(DiagnosticError, match="the token `<g>` has no id"):
        own(once=["<g>"])


def test_published_configuration(tmp_path: Path) -> None:
    """What the file says goes over the table; what is not computed is refused by its key."""
    tables = {"pixel_values": {"type": "processor.aspect", "stats": "clip"}}
    config = {
        "image_processor_type": "Idefics2ImageProcessor", "do_image_splitting": True, "size": {"longest_edge": 490, "shortest_edge": 224},
        "do_pad": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "do_convert_rgb": True, "rescale_factor": 1 / 255,
    }  # fmt: skip
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    read = overlaid(tables, tmp_path)["pixel_values"]
    assert (read["shortest"], read["longest"], read["quarters"], read["resample"]) == (224, 490, True, "bilinear")
    assert Aspect(**{k: v for k, v in read.items() if k != "type"}).mean_std() == ((0.5,) * 3, (0.5,) * 3)
    for key, value in (("do_pad", False), ("size", {"height": 3, "width": 3}), ("do_magic", True)):
        path.write_text(json.dumps({**config, key: value}))
        with pytest.raises(DiagnosticError, match=key):
            overlaid(tables, tmp_path)
