"""Gemma's configurations: roots of numbers, lists of layer kinds, null where it means something and where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.import_config import Imported, import_config


def read(folder: Path, kind: str = "gemma2", vision: dict[str, Any] | None = None, **text: Any) -> Imported:
    tower = {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
    config = {
        "model_type": "paligemma", "image_token_index": 257152, "projection_dim": 2304, "text_config": {"model_type": kind, **text},
        "vision_config": {**tower, "intermediate_size": 4304, "vision_use_head": False, "projection_dim": 2304, **(vision or {})},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return import_config(folder / "config.json")


def llm(folder: Path, **text: Any) -> dict[str, Any]:
    return read(folder, **text).spec["components"]["llm"]


def test_the_kind_of_the_decoder_chooses_the_spec(tmp_path: Path) -> None:
    assert [read(tmp_path, kind).spec["extends"] for kind in ("gemma", "gemma2")] == ["paligemma", "paligemma-2"]
    assert "pool" not in read(tmp_path).spec["components"]  # the tower has no head here, whatever other families do with it


def test_roots(tmp_path: Path) -> None:
    made = llm(tmp_path, hidden_size=4608, query_pre_attn_scalar=144)
    assert made["scale"] == 4608**0.5 and made["attention"]["scale"] == 144**-0.5


@pytest.mark.parametrize(
    ("kinds", "pattern"),
    [
        (["sliding_attention", "full_attention"] * 3, ["sliding_attention", "full_attention"]),
        (["full_attention"] * 4, ["full_attention"]),
        (["full_attention", "full_attention", "sliding_attention", "full_attention"], ["full_attention"] * 2 + ["sliding_attention"]),
    ],
)
def test_a_list_of_layers_is_written_as_what_it_repeats(tmp_path: Path, kinds: list[str], pattern: list[str]) -> None:
    assert llm(tmp_path, layer_types=kinds, num_hidden_layers=len(kinds))["pattern"] == pattern


def test_null_bounds_are_none(tmp_path: Path) -> None:
    assert (llm(tmp_path)["soft_cap"], llm(tmp_path)["attention"]["soft_cap"]) == (30.0, 50.0)
    free = llm(tmp_path, final_logit_softcapping=None, attn_logit_softcapping=None)
    assert (free["soft_cap"], free["attention"]["soft_cap"]) == (0, 0)


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("sliding_window", None, "may not be null"),
        ("head_dim", None, "may not be null"),
        ("layer_types", ["full_attention", "chunked_attention"], "supported"),
        ("layer_types", [1, 2], "a list of texts"),
        ("query_pre_attn_scalar", 0, "above zero"),
        ("hidden_size", -4, "above zero"),
        ("hidden_activation", "mish", "supported"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, key: str, value: Any, note: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        read(tmp_path, **{key: value})
    (found,) = error.value.diagnostics
    assert found.code == "VG0604" and f"text_config.{key} = " in found.message and found.primary is not None
    assert note in found.message + "".join(found.notes)


def test_a_pooling_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=r"vision_config\.vision_use_head"):
        read(tmp_path, vision={"vision_use_head": True})
