"""spec.lock.toml and the compiled folder: what is written reads back as the same model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vlmgraph
from vlmgraph.spec.write import to_toml
from vlmgraph.weights.lock import slot

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

names = st.text(min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=12)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=4))
def test_toml_reads_back(data: dict[str, Any]) -> None:
    """Any key and any text, quotes and control characters too: nothing in a value can become structure."""
    assert tomllib.loads(to_toml(data)) == data


SPECS = ["clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus"]


@pytest.mark.parametrize("name", SPECS)
def test_compiled_folder_reads_back(name: str, tmp_path: Path) -> None:
    model = vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"), seed=3)
    model.save(tmp_path)
    assert {"spec.lock.toml", "graph.txt", "report.json", "report.html", "model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    again = vlmgraph.load(tmp_path)
    first, second = model.state_dict(), again.state_dict()
    assert set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)
    assert {id: slot(c) for id, c in again.graph.components.items()} == {id: slot(c) for id, c in model.graph.components.items()}
    assert json.loads((tmp_path / "report.json").read_text())["parameters"]["total"] == sum(p.numel() for p in set(model.parameters()))


def test_lock_writes_defaults_and_inferred_dims(tmp_path: Path) -> None:
    vlmgraph.compile(vlmgraph.read_spec("llava-1.5", size="tiny"), device="meta").save(tmp_path)
    lock = tomllib.loads((tmp_path / "spec.lock.toml").read_text())
    projector = lock["components"]["projector"]
    assert projector["d_in"] == lock["components"]["vision"]["width"] and projector["out"] == lock["components"]["llm"]["width"]
    assert "preset" not in lock["components"]["llm"] and "sizes" not in lock
    assert not (tmp_path / "model.safetensors").exists()  # nothing is stored on the meta device
