"""Two entries from one picture: the second starts from what the first fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import Processor, build_processor
from vlmgraph.processor.published import overlaid

LARGE = {"type": "processor.image", "size": 40, "fit": "longest", "pad": 200, "stats": 1.0}


def own(**small: Any) -> Processor:
    tables = {
        "big_values": LARGE,
        "values": {"type": "processor.image", "size": 10, "fit": "squash", "stats": 0.5, "source": "big_values", **small},
        "input_ids": {"type": "processor.text", "place": {"<i>": 3}},
    }
    return build_processor(tables, {"<i>": 300}, {})


def test_the_second_is_the_first_made_small() -> None:
    """With the margins of the first; the placeholder stands for the one picture that is given."""
    red = PIL.Image.new("RGB", (80, 40), (255, 0, 0))
    got = own()(text=["<i>a", "<i><i>b"], images=[[red], [red, red]])
    assert got["big_values"].shape == (3, 3, 40, 40) and got["values"].shape == (3, 3, 10, 10)
    assert (got["input_ids"] == 300).sum(1).tolist() == [3, 6]
    square = PIL.Image.new("RGB", (40, 40), (200, 200, 200))
    square.paste(red.resize((40, 20)), (0, 10))
    wanted = np.asarray(square.resize((10, 10), PIL.Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1
    assert np.abs(got["values"] - wanted.transpose(2, 0, 1)).max() < 1e-6


def test_pictures_are_given_once() -> None:
    with pytest.raises(DiagnosticError, match="there is no input `values`"):
        own()(text="a", values=[PIL.Image.new("RGB", (8, 8))])


@pytest.mark.parametrize("small", [{"source": "input_ids"}, {"source": "nothing"}, {"source": "values"}, {"batch": "samples"}])
def test_what_it_cannot_start_from(small: dict[str, Any]) -> None:
    with pytest.raises(DiagnosticError, match=r"processor\.values\.source: .* is no entry of pictures") as caught:
        own(**small)
    assert "entries that are:" in str(caught.value.diagnostics[0].fix)


def test_clips_start_from_nothing() -> None:
    with pytest.raises(DiagnosticError, match="neither clips nor pictures of an output"):
        own(batch="clips")


def test_published_configurations_name_the_first_by_a_prefix(tmp_path: Path) -> None:
    tables = {"big_values": LARGE, "values": {"type": "processor.image", "source": "big_values", "fit": "longest"}}
    config = {"size": {"height": 10, "width": 10}, "big_size": {"height": 50, "width": 50}, "resample": 2, "big_resample": 0, "min_size": 3,
              "image_mean": 0.5, "image_std": 0.5, "big_image_mean": [0.1, 0.2, 0.3], "big_image_std": [1, 1, 1]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    read = overlaid(tables, tmp_path)
    given = {"size": 50, "resample": "nearest", "min_side": 3, "rounding": "nearest"}
    assert {key: read["big_values"][key] for key in given} == given
    assert read["big_values"]["stats"]["mean"] == [0.1, 0.2, 0.3] and read["values"]["stats"]["mean"] == [0.5] * 3
    assert (read["values"]["size"], read["values"]["resample"], read["values"]["min_side"]) == (10, "bilinear", 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "big_flip": True}))
    with pytest.raises(DiagnosticError, match="is not known"):
        overlaid(tables, tmp_path)
