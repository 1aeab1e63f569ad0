"""Llama 3.2-Vision's config.json, and keys of layers that are counted together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.weights.import_config import import_config
from vlmgraph.weights.made import MADE
from vlmgraph.weights.templates import Template

PUBLISHED: dict[str, Any] = {
    "architectures": ["MllamaForConditionalGeneration"], "image_token_index": 128256, "model_type": "mllama", "torch_dtype": "bfloat16",
    "text_config": {
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "eos_token_id": [128001, 128008], "model_type": "mllama_text_model",
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
    },
    "vision_config": {"image_size": 560, "model_type": "mllama_vision_model", "vision_output_dim": 7680},
}  # fmt: skip


def read(folder: Path, *changes: tuple[str, str, Any]) -> dict[str, Any]:
    config = json.loads(json.dumps(PUBLISHED))
    for part, key, value in changes:
        config[part][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return import_config(folder / "config.json").spec


def test_published_file(tmp_path: Path) -> None:
    spec = read(tmp_path)
    llm, vision = spec["components"]["llm"], spec["components"]["vision"]
    assert (llm["layers"], llm["insert"][0]["layers"], spec["tokens"]["<|image|>"]) == (32, list(range(3, 32, 4)), 128256)
    scaling = {"rule": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "original": 8192}
    assert llm["position"] == {"type": "position.rope", "theta": 500000.0, "scaling": scaling}
    assert (vision["layers"], vision["image_size"], spec["components"]["whole"]["layers"]) == (32, 560, 8)
    assert spec["inputs"]["pixel_values"] == "image[B, M, 4, 3, 560, 560]?"
    plain = read(tmp_path, ("text_config", "rope_scaling", None))["components"]["llm"]["position"]
    assert plain == {"type": "position.rope", "theta": 500000.0}


@pytest.mark.parametrize(
    ("version", "levels"),
    [
        ("4.45.0.dev0", "3, 7, 15, 23, 30"),
        ("4.54.1", "3, 7, 15, 23, 30"),
        ("4.55.0", "4, 8, 16, 24, 31"),
        ("5.23.0", "4, 8, 16, 24, 31"),
        (None, "4, 8, 16, 24, 31"),
    ],
)
def test_levels_are_those_of_the_release_that_wrote_the_file(version: str | None, levels: str, tmp_path: Path) -> None:
    """Published files are of 4.45: states in front of their layers, for which the weights were trained."""
    config = PUBLISHED | ({} if version is None else {"transformers_version": version})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert import_config(tmp_path / "config.json").spec["graph"]["edges"] == [f"vision.hidden[{levels}] -> levels"]


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("text_config", "cross_attention_layers", [3, 4], "two of these layers follow on each other"),
        ("text_config", "cross_attention_layers", [3, 39], "its entries are below 39"),
        ("text_config", "cross_attention_layers", [-1, 3], "there is no layer -1"),
        ("text_config", "hidden_act", "mish", "supported: silu"),
        ("text_config", "rope_scaling", {"rope_type": "yarn", "factor": 8.0}, 'supported: "default", "llama3"'),
        ("text_config", "partial_rotary_factor", 0.5, "no rule explains"),
        ("vision_config", "norm_eps", 1e-6, "supported: 1e-05"),
        ("vision_config", "num_channels", 4, "supported: 3"),
        ("vision_config", "intermediate_layers_indices", [3, 32], "its entries are below 32"),
        ("vision_config", "image_size", [560, 560], "it is a whole number"),
        ("vision_config", "depth", 3, "no rule explains"),
    ],
)
def test_refused(part: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError) as error:
        read(tmp_path, (part, key, value))
    [found] = error.value.diagnostics
    whole = " ".join((str(found), *found.notes))
    assert said in whole and (key in whole or key == "rope_scaling") and "config.json" in whole


def test_holes_of_a_list() -> None:
    """Layers 1, 4 and 6 of nine are of one kind, the six others of another."""
    kind, rest, places = (Template(f"a.{{i{what}}}.b") for what in ("@[6, 1, 4]", "~[6, 1, 4]", "@[6, 1, 4]-"))
    assert [kind.fill((("i", i),)) for i in range(3)] == ["a.1.b", "a.4.b", "a.6.b"]
    assert [rest.fill((("i", i),)) for i in range(6)] == ["a.0.b", "a.2.b", "a.3.b", "a.5.b", "a.7.b", "a.8.b"]
    assert [places.fill((("i", i),)) for i in range(3)] == ["a.1.b", "a.3.b", "a.4.b"] and MADE["inserted"]([6, 1, 4]) == [1, 3, 4]
    for template, count in ((kind, 3), (rest, 6), (places, 3)):
        assert all(template.match(template.fill((("i", i),))) == (("i", i),) for i in range(count))
    assert kind.match("a.2.b") is None and rest.match("a.4.b") is None and places.match("a.2.b") is None
