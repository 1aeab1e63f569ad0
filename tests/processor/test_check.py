"""Faults of `[processor]` tables: all at once, each with its key and a way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmgraph import api
from vlmgraph.diagnostics.core import Span
from vlmgraph.ir.types import parse_type
from vlmgraph.processor import read_tables
from vlmgraph.spec import read_spec


def test_all_faults_at_once() -> None:
    processor = {
        "pixel_values": {"type": "processor.image", "siez": 224, "fit": "stretch"},
        "input_id": {"type": "processor.text", "place": {"<image>": "projektor"}, "bos": "<S>", "also": {"attention_mask": "mask"}},
        "boxes": {"type": "processor.boxs"},
        "labels": 3,
    }
    asked: list[tuple[str, ...]] = []

    def locate(path: tuple[str, ...]) -> Span:
        asked.append(path)
        return Span("spec.toml", 1, 1, 1, 2)

    types = {"pixel_values": "image[N, 3, 42, 42]", "input_ids": "ids[B, T]", "attention_mask": "mask[B, T]"}
    inputs = {name: parse_type(text) for name, text in types.items()}
    _, faults = read_tables(processor, {"<s>": 1}, inputs, [], ["projector"], locate=locate)
    said = {(d.code, d.message.split(":")[0]): d.fix for d in faults}
    assert said[("VG0701", "processor.pixel_values.siez")] == "did you mean `size`?"
    assert ("VG0701", "processor.pixel_values.fit") in said
    assert said[("VG0716", "processor.input_id")] == "did you mean `input_ids`?"
    assert said[("VG0716", "processor.input_id.place.<image>")] == "did you mean `projector`?"
    assert said[("VG0715", "processor.input_id.bos")] == "did you mean `<s>`?"
    assert ("VG0715", "processor.input_id.place.<image>") in said
    assert said[("VG0701", "processor.boxes.type")] == "did you mean `processor.boxes`?"
    assert ("VG0701", "processor.labels") in said
    assert ("pixel_values", "siez") in asked
    assert all(d.fix and d.primary for d in faults)


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("image", {"size": [3, 4], "fit": "pad"}, "one number"),
        ("image", {"size": 0}, "greater than 0"),
        ("image", {"size": 10**9}, "65536"),
        ("image", {"stats": 0.0}, "above 0"),
        ("image", {"stats": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "greater than 0"),
        ("image", {"also": {"m": "mask"}}, "mask over media"),
        ("image", {"also": {"m": "grid"}}, "not one of"),
        ("native", {"min_pixels": 10**8}, "above max_pixels"),
        ("native", {"min_pixels": 1, "max_pixels": 100}, "not one token"),
        ("text", {"padding": "max"}, "max_length"),
        ("text", {"at": "start"}, "placeholder"),
        ("chat", {"roles": {"user": "{text}"}}, "roles.assistant"),
    ],
)
def test_fields_that_do_not_fit(kind: str, fields: dict[str, Any], says: str) -> None:
    _, faults = read_tables({"x": {"type": f"processor.{kind}", **fields}}, {})
    assert [d.code for d in faults] == ["VG0701"] * len(faults)
    assert any(says in d.message for d in faults), [d.message for d in faults]


def test_pictures_have_the_size_of_the_input() -> None:
    inputs = {"x": parse_type("image[N, 3, 42, 56]?"), "p": parse_type("patches[P in grid, 1176]")}
    entries, faults = read_tables({"x": {"type": "processor.image"}, "p": {"type": "processor.native"}}, {}, inputs)
    assert not faults
    assert entries.media["x"].hw() == (42, 56)  # type: ignore[attr-defined]
    wrong = {"x": {"type": "processor.image", "size": 42}, "p": {"type": "processor.native", "patch": 16}}
    _, faults = read_tables(wrong, {}, inputs)
    assert [d.code for d in faults] == ["VG0717"] * 2
    assert "42 x 42, the input is image[N, 3, 42, 56]" in faults[0].message
    assert "= 1536 values" in faults[1].message
    for table, types in (({}, None), ({}, {"x": parse_type("image[N, 3, H, W]")}), ({"fit": "pad"}, inputs)):
        _, faults = read_tables({"x": {"type": "processor.image", **table}}, {}, types)
        assert [d.code for d in faults] == ["VG0717"]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "specs").glob("*.toml")), ids=lambda p: p.stem)
def test_specs(path: Path) -> None:
    """The tables of the published specs fit their own inputs, tokens and nodes."""
    spec = read_spec(path.stem).data
    inputs = {name: parse_type(text) for name, text in spec["inputs"].items()}
    nodes = [*spec.get("components", {}), *spec.get("nodes", {})]
    entries, faults = read_tables(spec["processor"], spec["tokens"], inputs, spec.get("outputs", {}), nodes)
    assert not faults
    assert entries.texts and (entries.media or not {t.kind for t in inputs.values()} & {"image", "patches", "video", "map"})


def test_check_names_the_line(tmp_path: Path) -> None:
    """`check` reads the tables too: faults with their places; a token that only a tokenizer may know is a warning."""
    spec = tmp_path / "mine.toml"
    spec.write_text(
        'vlmgraph = 1\nextends = "llava-1.5"\n\n[processor.pixel_values]\nfitt = "crop"\n\n[processor.input_ids]\nbos = "<S>"\n'
        'place = { "<image>" = "projektor" }\n\n[processor.labls]\ntype = "processor.text"\n'
    )
    found = {d.code: d for d in api.check(spec)}
    assert {code: d.severity for code, d in found.items()} == {"VG0701": "error", "VG0715": "warning", "VG0716": "error"}
    assert found["VG0701"].primary and (found["VG0701"].primary.span.line, found["VG0701"].fix) == (5, "did you mean `fit`?")
    assert found["VG0715"].primary and found["VG0715"].primary.span.line == 8
    assert api.check("llava-1.5") == []


def test_several_picture_inputs_need_a_name() -> None:
    two = {name: {"type": "processor.image", "size": 8} for name in "ab"}
    text = {"type": "processor.text", "place": {"<i>": "n"}}
    _, faults = read_tables({**two, "t": text}, {"<i>": 1})
    assert "whose pictures" in faults[0].message and "a, b" in str(faults[0].fix)
    _, faults = read_tables({**two, "t": text | {"place": {"<i>": {"node": "n", "of": "b"}}}}, {"<i>": 1})
    assert not faults


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, vlmgraph.processor as p; import vlmgraph.processor.check; assert 'numpy' not in sys.modules;"
        "p.build_processor({'x': {'type': 'processor.image', 'size': 8}}, {}, {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
