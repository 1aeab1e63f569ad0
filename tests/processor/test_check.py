"""Faults of `[processor]` tables: all at once, each with its key and a way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmgraph.diagnostics.core import Span
from vlmgraph.processor import read_tables

TABLES = sorted(p.stem for p in (Path(__file__).parent / "tables").glob("*.toml"))


@pytest.mark.parametrize("name", TABLES)
def test_published_tables_are_valid(name: str, tables: Any) -> None:
    spec = tables(name)
    entries, faults = read_tables(spec["processor"], spec["tokens"])
    assert not faults
    assert entries.media and entries.texts


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

    names = {"inputs": ["pixel_values", "input_ids", "attention_mask"], "outputs": [], "nodes": ["projector"]}
    _, faults = read_tables(processor, {"<s>": 1}, **names, locate=locate)
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


def test_several_picture_inputs_need_a_name() -> None:
    two = {"a": {"type": "processor.image"}, "b": {"type": "processor.image"}}
    text = {"type": "processor.text", "place": {"<i>": "n"}}
    _, faults = read_tables({**two, "t": text}, {"<i>": 1})
    assert "whose pictures" in faults[0].message and "a, b" in str(faults[0].fix)
    _, faults = read_tables({**two, "t": text | {"place": {"<i>": {"node": "n", "of": "b"}}}}, {"<i>": 1})
    assert not faults


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, vlmgraph.processor as p; import vlmgraph.processor.check; assert 'numpy' not in sys.modules;"
        "p.build_processor({'x': {'type': 'processor.image'}}, {}, {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
