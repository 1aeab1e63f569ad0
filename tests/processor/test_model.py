"""The processor of a model: from every size and variant of every spec, with the token counts that the graph derives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlmgraph import api, read_spec
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.passes.expect import token_dims
from vlmgraph.processor.model import known_sizes, longest, model_processor, vocabulary_size

SPECS = sorted(p.stem for p in (Path(__file__).parents[2] / "specs").glob("*.toml"))
PICTURES = ("image", "patches", "video", "map")
RED = PIL.Image.new("RGB", (64, 48), (255, 0, 0))


def cases() -> list[tuple[str, str | None, str | None]]:
    found: list[tuple[str, str | None, str | None]] = []
    for name in SPECS:
        spec = read_spec(name)
        found += [(name, None, size) for size in (None, *spec.sizes)]
        found += [(name, variant, size) for variant in spec.variants for size in (None, "tiny")]
    return found


@pytest.mark.parametrize(("name", "variant", "size"), cases())
def test_every_size_and_variant(name: str, variant: str | None, size: str | None) -> None:
    spec = read_spec(name, variant=variant, size=size)
    graph = api.elaborate(spec)
    processor = model_processor(spec, graph)
    seen = any(t.kind in PICTURES for t in graph.inputs.values())  # where not, a detector's regions come ready, or text comes alone
    if not processor.encoders:  # an encoder by itself
        pixels = processor(images=RED)["pixel_values"]
        assert all(d.constant in (None, n) for d, n in zip(graph.inputs["pixel_values"].dims, pixels.shape, strict=True))
        return
    inputs = processor.ask("What is this?", images=RED) if seen else processor.ask("What is this?")
    assert set(inputs) <= set(graph.inputs)
    for key, value in inputs.items():  # the model's own check of what it is called with
        dims = graph.inputs[key].dims
        assert len(dims) == value.ndim and all(d.constant in (None, n) for d, n in zip(dims, value.shape)), key
    limit = longest(graph, "input_ids")
    assert limit is None or inputs["input_ids"].shape[1] <= limit
    assert inputs["input_ids"].max() < (vocabulary_size(graph, "input_ids") or 0)
    places = [slot for slot in processor.encoders["input_ids"].slots if isinstance(slot.place.node, str)]
    count = sum(int((inputs["input_ids"] == slot.id).sum()) for slot in places[:1])
    marks = next((key for key, what in processor.encoders["input_ids"].config.also.items() if what == "places"), None)
    if marks is not None:  # other ids stand in the places of a picture
        count = int(inputs[marks].sum())
    grid = next((inputs[key] for key in inputs if graph.inputs[key].kind == "grid"), None)
    names = {"image_sizes": "sizes", "images_spatial_crop": "tiles"}
    given = {names[key]: inputs[key] for key in inputs if key in names}
    if places and given:  # one picture at its own resolution, or in tiles
        found = [n[0] for config in graph.components.values() if (n := config.lengths(given))]
        assert set(found) == {count}  # a frozen copy counts as its original does
    elif places and grid is None:
        shape, kind = inputs[places[0].input].shape, processor.entries.media[places[0].input].kind
        tiles = {"processor.tiles": shape[0], "processor.split": shape[1], "processor.aspect": shape[1]}.get(kind, 1)
        lengths = [dim.substitute(known_sizes(graph, inputs)).constant for dim in token_dims(graph).values()]
        assert count in [n * tiles for n in lengths if n]
    elif places:
        assert count == int(np.prod(grid)) // getattr(processor.entries.media[places[0].input], "merge", 1) ** 2


def test_a_spec_that_says_nothing_of_inputs() -> None:
    spec = read_spec({"extends": "llava-1.5", "processor": {k: {"remove": True} for k in ("pixel_values", "input_ids")}}, size="tiny")
    with pytest.raises(DiagnosticError, match=r"VG0701.*how pictures and texts become its inputs"):
        model_processor(spec, api.elaborate(spec))


def test_counts_follow_the_graph() -> None:
    """One line changes the picture's size; the processor's pixels and placeholders go along."""
    changed: dict[str, Any] = {
        "expect.visual_tokens": 25,
        "inputs.pixel_values": "image[N, 3, 70, 70]?",
        "components.vision.image_size": 70,
    }
    spec = read_spec("llava-1.5", size="tiny", overrides=changed)
    inputs = model_processor(spec, api.elaborate(spec)).ask("What?", images=RED)
    assert inputs["pixel_values"].shape == (1, 3, 70, 70)
    assert (inputs["input_ids"] == spec.data["tokens"]["<image>"]).sum() == 25


def test_stages_change_the_processor() -> None:
    """LLaVA's first stage crops, the second pads; CogVLM's first is at 224 pixels."""
    wide = PIL.Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    pixels = {}
    for stage in ("align", "instruct"):
        spec = read_spec("llava-1.5", size="tiny", stage=stage)
        pixels[stage] = model_processor(spec, api.elaborate(spec)).ask("x", images=wide)["pixel_values"]
    assert pixels["align"].shape == pixels["instruct"].shape and np.abs(pixels["align"] - pixels["instruct"]).max() > 0.5
    spec = read_spec("cogvlm", stage="caption", overrides={"expect": {"remove": True}})
    inputs = model_processor(spec, api.elaborate(spec)).ask("x", images=wide)
    assert inputs["pixel_values"].shape == (1, 3, 224, 224) and (inputs["input_ids"] == 0).sum() == 258
