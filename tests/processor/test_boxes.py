"""Boxes as text, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import build_processor
from vlmgraph.processor.boxes import BoxCodec
from vlmgraph.processor.config import Boxes

QWEN = Boxes(
    phrase="<|object_ref_start|>{phrase}<|object_ref_end|>",
    format="{boxes}",
    box="<|box_start|>({x0},{y0}),({x1},{y1})<|box_end|>",
    join="",
)


def test_cogvlm(build: Any) -> None:
    codec = build("cogvlm").codecs["boxes"]
    text = codec.text([[0, 3, 320, 427], [64, 0, 640, 400]], (640, 427))
    assert text == "[[000,007,500,999;100,000,999,936]]"
    (found,) = codec.parse(f"a dog {text} runs", (640, 427))
    assert np.allclose(found.boxes[0], [0, 2.989, 320, 426.573])
    assert codec.parse("[[1,2,3]] [[9,9,1,1]] none", (10, 10)) == []


def test_qwen(build: Any) -> None:
    codec = build("qwen2-vl").codecs["boxes"]
    text = codec.text([[10, 20, 30, 40]], (100, 200), "the (big) cat")
    assert text == "<|object_ref_start|>the (big) cat<|object_ref_end|><|box_start|>(100,100),(300,200)<|box_end|>"
    first, second = codec.parse(text + " and <|box_start|>(1,2),(3,4)<|box_end|>", (1000, 1000))
    assert (first.phrase, first.boxes.tolist()) == ("the (big) cat", [[100, 100, 300, 200]])
    assert (second.phrase, second.boxes.tolist()) == ("", [[1, 2, 3, 4]])
    (alone,) = codec.parse("<|object_ref_start|>a cat<|object_ref_end|> near " + text, (100, 200))
    assert alone.phrase == "the (big) cat"  # and not what stands between two phrases, of which the first has no boxes


@pytest.mark.parametrize("config", [Boxes(), QWEN])
@given(data=st.data())
def test_round_trip_within_one_bin(config: Boxes, data: st.DataObject) -> None:
    codec = BoxCodec(config)
    width, height = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 5000))
    corners = [sorted(data.draw(st.tuples(*[st.floats(0, side)] * 2))) for side in (width, height) * 2]
    boxes = np.array([[*np.stack(corners[k : k + 2], axis=1).ravel()] for k in (0, 2)])
    (found,) = codec.parse(f"so: {codec.text(boxes, (width, height))}.", (width, height))
    assert found.boxes.shape == boxes.shape
    assert (np.abs(found.boxes - boxes) <= np.array([width, height, width, height]) / 1000 + 1e-9).all()


def test_boxes_outside_are_clipped_and_nonsense_is_refused() -> None:
    codec = BoxCodec(Boxes())
    assert codec.text([[-5, -5, 2000, 2000]], (100, 100)) == "[[000,000,999,999]]"
    for bad in ([[1, 2, 3]], [], [[5, 5, 1, 1]], [[0, 0, float("nan"), 1]]):
        with pytest.raises(DiagnosticError, match="VG0714"):
            codec.text(bad, (100, 100))


@given(st.text(alphabet="[](),;0123456789<|>box_startend ", max_size=300))
def test_any_text_can_be_parsed(text: str) -> None:
    for config in (Boxes(), QWEN):
        for found in BoxCodec(config).parse(text, (640, 480)):
            assert (found.boxes >= 0).all() and (found.boxes <= 640).all()


def test_long_model_output_parses_quickly() -> None:
    codec = BoxCodec(QWEN)
    assert codec.parse("<|object_ref_start|>" * 3000, (10, 10)) == []
    assert codec.parse("[[" * 20_000, (10, 10)) == []


@pytest.mark.parametrize(
    "wrong", [{"format": "none"}, {"box": "{x0},{y0},{x1}"}, {"box": "{x0},{y0},{x1},{y1},{x0}"}, {"phrase": "p"}, {"scale": 0}]
)
def test_wrong_formats(wrong: dict[str, Any]) -> None:
    with pytest.raises(DiagnosticError, match="VG0701"):
        build_processor({"boxes": {"type": "processor.boxes", **wrong}}, {}, {})
