"""The JSON Schema of specs: the committed one is what the code gives, editors accept every spec by it and mark what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import vlmgraph
from tests.cli.conftest import Command
from vlmgraph.spec.schema import schema

jsonschema = pytest.importorskip("jsonschema")

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "specs/vlmgraph.schema.json"
SPECS = sorted([*ROOT.glob("specs/*.toml"), *ROOT.glob("plugins/*/*/specs/*.toml")])


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def test_the_committed_schema_is_current(vlmgraph: Command, update: bool) -> None:
    made = vlmgraph("schema", "--own").out
    if update:
        COMMITTED.write_text(made, encoding="utf-8")
    assert COMMITTED.read_text(encoding="utf-8") == made, "make it new: vlmgraph schema --own -o specs/vlmgraph.schema.json"


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_spec_is_valid(validator: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#:schema vlmgraph.schema.json\n") or "plugins" in path.parts
    found = [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(tomllib.loads(text))]
    assert not found


LLAVA = tomllib.loads((ROOT / "specs/llava-1.5.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("compnents", {}),
        ("vlmgraph", 2),
        ("components.llm.layer", 3),
        ("components.llm.layers", "three"),
        ("components.llm.layers", 0),
        ("components.llm.order", "sideways"),
        ("components.projector.type", "mlp"),
        ("components.9lives", {"type": "connector.mlp"}),
        ("graph.edges", "a -> b"),
        ("graph.edge", []),
        ("programs.forward.output", ["logits"]),
        ("stages.align.train", 3),
        ("stages.align.frozen", ["llm"]),
        ("objectives.lm.ignored", []),
        ("inputs.pixel_values", ["image"]),
        ("expect.params", {"total": "many"}),
    ],
)
def test_what_is_wrong_is_marked_there(validator: Any, path: str, value: Any) -> None:
    """Marked by the schema at that key or above it, and by the compiler too: the schema asks for nothing more than the language."""
    data = json.loads(json.dumps(LLAVA))
    *parents, last = path.split(".")
    table = data
    for name in parents:
        table = table[name]
    table[last] = value
    places = [list(map(str, e.absolute_path)) for e in validator.iter_errors(data)]
    assert places and all(place == path.split(".")[: len(place)] for place in places), places
    assert vlmgraph.check(data)


def test_short_forms_are_allowed(validator: Any) -> None:
    data = json.loads(json.dumps(LLAVA))
    data["stages"]["align"] |= {"train": "projector", "objectives": ["lm"], "set": [{"a.b": 1}, {"a.b": 2}], "init": "checkpoint"}
    data["expect"] = {"params": 7, "visual_tokens": "N"}
    assert not list(validator.iter_errors(data))


def test_what_is_extended_may_be_removed(validator: Any) -> None:
    removal = {"remove": True}
    data = {"vlmgraph": 1, "extends": "llava-1.5", "components": {"projector": removal}, "nodes": {"second": removal},
            "stages": {"align": removal}, "objectives": {"lm": removal}, "programs": {"generate": removal}, "inference": {"chat": removal},
            "expect": {"params": {"total": removal}}}  # fmt: skip
    assert not list(validator.iter_errors(data))


def test_a_block_knows_the_components_too(validator: Any) -> None:
    data = {"vlmgraph": 1, "blocks": {"tower": {"components": {"vision": {"type": "vision.vit", "layerss": 3}}}}}
    (error,) = validator.iter_errors(data)
    assert list(error.absolute_path) == ["blocks", "tower", "components", "vision"]


def test_fields_are_explained(validator: Any) -> None:
    """What an editor shows at a field: its description where the component has one."""
    kinds = {
        rule["if"]["properties"]["type"]["const"]: rule["then"]["properties"]
        for rule in validator.schema["properties"]["components"]["additionalProperties"]["allOf"]
    }
    assert {"vision.vit", "decoder.transformer", "connector.qformer"} <= set(kinds)
    assert "loss.sigmoid" not in kinds
    assert kinds["vision.vit"]["layers"]
