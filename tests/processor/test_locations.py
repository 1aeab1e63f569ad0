"""Location tokens: bins of coordinates, boxes, quadrilaterals and polygons in a text, both ways and beside transformers' own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import build_processor
from vlmgraph.processor.locations import LocationCodec
from vlmgraph.processor.locations_config import Locations

CODEC = LocationCodec(Locations())


def locations(*bins: int) -> str:
    return "".join(f"<loc_{k}>" for k in bins)


def test_a_box_in_a_picture() -> None:
    text = CODEC.text([[100, 200, 300, 400]], (640, 480), "cat")
    assert text == "cat<loc_156><loc_416><loc_468><loc_833>"
    (found,) = CODEC.parse(text, (640, 480))
    assert found.phrase == "cat" and np.allclose(found.boxes, [[100.16, 199.92, 299.84, 400.08]])
    assert CODEC.text([[0, 0, 640, 480]], (640, 480)) == locations(0, 0, 999, 999)
    assert CODEC.text([[-9, 0, 9999, 1]], (640, 480)) == locations(0, 0, 999, 2)


@pytest.mark.parametrize("side", [1, 7, 640, 1000, 1024, 3000])
def test_a_bin_comes_back_as_itself(side: int) -> None:
    bins = np.arange(1000)
    points = CODEC.points(locations(*np.repeat(bins, 2)), (side, side))
    assert points.shape == (1000, 2) and CODEC.bins(points, (side, side)) == np.repeat(bins, 2).tolist()


def test_several_boxes_behind_a_phrase() -> None:
    text = f"<s>cat{locations(*range(1, 9))}dog{locations(9, 10, 11, 12)}</s><pad>"
    found = CODEC.parse(text, (1000, 1000))
    assert [(f.phrase, len(f.boxes)) for f in found] == [("cat", 2), ("dog", 1)]
    assert found[0].boxes.tolist() == [[1.5, 2.5, 3.5, 4.5], [5.5, 6.5, 7.5, 8.5]]
    (alone,) = CODEC.parse(locations(1, 2, 3, 4, 5, 6), (1000, 1000))  # region proposals; what is left over is no box
    assert alone.phrase == "" and alone.boxes.shape == (1, 4)
    assert CODEC.parse("cat<loc_1><loc_2><loc_3>", (10, 10)) == [] == CODEC.parse(locations(1, 2, 3, 1000), (10, 10))


def test_lines_of_writing() -> None:
    corners = np.array([[10, 20], [110, 22], [108, 60], [9, 58]])
    text = CODEC.outlined([corners], (200, 100), "EXIT")
    (found,) = CODEC.quadrilaterals(text + "A1" + locations(*range(8)), (200, 100))[:1]
    assert found.phrase == "EXIT" and np.abs(found.outlines[0] - corners).max() <= 0.1
    assert len(CODEC.quadrilaterals(text + "A1" + locations(*range(8)), (200, 100))) == 2


def test_polygons_of_objects() -> None:
    size = (100, 100)
    one, two = np.array([[0, 0], [50, 0], [50, 50]]), np.array([[60, 60], [90, 60], [90, 90], [60, 90]])
    text = CODEC.outlined([one, two], size, "tree")
    (found,) = CODEC.polygons(text, size)
    assert found.phrase == "tree" and [len(p) for p in found.outlines] == [3, 4] and "<sep>" in text
    grouped = "tree" + CODEC.outlined([one], size, group=True) + CODEC.outlined([two], size, group=True)
    assert [(f.phrase, len(f.outlines), len(f.outlines[0])) for f in CODEC.polygons(grouped, size)] == [("tree", 1, 3), ("tree", 1, 4)]
    (odd,) = CODEC.polygons(locations(1, 2, 3, 4, 5), size)
    assert odd.outlines[0].shape == (2, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: CODEC.text([[5, 5, 1, 1]], (10, 10)),
        lambda: CODEC.text([[1, 2, 3]], (10, 10)),
        lambda: CODEC.text([], (10, 10)),
        lambda: CODEC.text([[0, 0, float("nan"), 1]], (10, 10)),
        lambda: CODEC.outlined([], (10, 10)),
        lambda: CODEC.outlined([np.array([1.0, 2.0])], (10, 10)),
    ],
)
def test_what_is_no_region_is_refused(call: Any) -> None:
    with pytest.raises(DiagnosticError, match="VG0714"):
        call()


def test_the_fields_of_an_entry() -> None:
    assert Locations(ids=50269).tokens()["<loc_999>"] == 51268 and Locations().tokens() == {}
    for wrong in ({"token": "<loc>"}, {"box": "{x0}{y0}"}, {"group": ("", "x")}, {"separator": ""}):
        with pytest.raises(ValueError):
            Locations(**wrong)
    entries = {"input_ids": {"type": "processor.text", "tokenizer": "bart"}, "boxes": {"type": "processor.locations", "scale": 32}}
    codec = build_processor(entries, {"<s>": 0}, lambda node, inputs: []).codecs["boxes"]
    assert codec.text([[0, 0, 1, 1]], (2, 2)) == locations(0, 0, 16, 16)


def test_a_long_text_is_read_in_time() -> None:
    """Nothing backtracks over all of it again and again."""
    for text in ("a" * 60_000, "a<" * 30_000, locations(*[5] * 3, 7) * 4000, ("cat" + locations(1, 2, 3)) * 4000, "<poly>" * 9000):
        CODEC.parse(text, (10, 10)), CODEC.quadrilaterals(text, (10, 10)), CODEC.polygons(text, (10, 10))


def test_beside_the_published_reader() -> None:
    """Which cuts what it reads down to whole pixels, and phrases to ASCII."""
    module = pytest.importorskip("transformers.models.florence2.processing_florence2")
    kinds = ("ocr", "description_with_bboxes", "bboxes", "description_with_polygons", "polygons", "phrase_grounding")
    theirs = module.Florence2PostProcessor({kind: {} for kind in kinds}, SimpleNamespace(all_special_tokens=[]))
    source, size = np.random.default_rng(4), (641, 377)
    for _ in range(40):
        runs = [locations(*source.integers(0, 1000, 4 * source.integers(1, 4))) for _ in range(3)]
        text = "<s>" + "".join(f"{name} {run}" for name, run in zip(("a red cat", "dog", "two trees"), runs)) + "</s>"
        wanted = theirs(text=text, image_size=size, parse_tasks="description_with_bboxes")["description_with_bboxes"]
        ours = [(f.phrase, box) for f in CODEC.parse(text, size) for box in f.boxes.astype(int).tolist()]
        assert ours == [(w["cat_name"], w["bbox"]) for w in wanted]
        proposals = theirs(text=runs[0], image_size=size, parse_tasks="bboxes")["bboxes"]
        assert CODEC.parse(runs[0], size)[0].boxes.astype(int).tolist() == [w["bbox"] for w in proposals]
        quads = "".join(f"line {k}{locations(*source.integers(0, 1000, 8))}" for k in range(3))
        lines = theirs(text=quads, image_size=size, parse_tasks="ocr")["ocr"]
        read = [(f.phrase, f.outlines[0].astype(int).ravel().tolist()) for f in CODEC.quadrilaterals(quads, size)]
        assert read == [(w["text"], w["quad_box"]) for w in lines]
        parts = [locations(*source.integers(0, 1000, source.integers(6, 13))) for _ in range(3)]
        for shapes in ("tree" + "<sep>".join(parts), f"tree<poly>{parts[0]}<sep>{parts[1]}</poly><poly>{parts[2]}</poly>"):
            outlined = theirs(text=shapes, image_size=size, parse_tasks="description_with_polygons")["description_with_polygons"]
            drawn = [(f.phrase, [p.astype(int).ravel().tolist() for p in f.outlines]) for f in CODEC.polygons(shapes, size)]
            assert drawn == [(w["cat_name"], w["polygons"]) for w in outlined]
