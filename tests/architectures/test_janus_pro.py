"""Janus-Pro (arXiv 2501.17811): Janus's graph with another decoder, other data and another schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmgraph
from tests.architectures.common import graph, lively, measured, meta, noise, placed, published, random_ids, spec
from vlmgraph.api import elaborate
from vlmgraph.report.measure import report
from vlmgraph.train.stage import begin
from vlmgraph.weights.import_config import import_config

PARTS = {
    None: {"und_adaptor": 20_979_712, "gen_adaptor": 16_818_176, "gen_head": 83_906_560, "llm": 6_490_935_296 - 419_430_400,
           "embed": 419_430_400, "head": 419_430_400, "total": 7_407_773_323},
    "1b": {"und_adaptor": 6_295_552, "gen_adaptor": 4_214_784, "gen_head": 37_767_168, "llm": 1_233_225_728,
           "embed": 209_715_200, "head": 209_715_200, "total": 2_076_636_811},
}  # fmt: skip
TOWERS = {"vision": 303_688_704, "vq": 71_883_403, "gen_embed": 131_072}


@pytest.mark.parametrize("size", [None, "1b"])
def test_parameters(size: str | None) -> None:
    assert published("janus-pro", size) == TOWERS | PARTS[size]


def test_the_small_one_is_janus_part_by_part() -> None:
    assert published("janus-pro", "1b") == published("janus")


def test_parameters_are_those_of_the_reference(tmp_path: Path) -> None:
    """The 7B's configuration, read here and by the reference's class."""
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    words = {"model_type": "llama", "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30,
             "num_attention_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 16384, "rope_parameters": rope}  # fmt: skip
    codes = {"projection_dim": 4096, "image_token_embed_dim": 4096, "num_patches": 24}
    config = tf.JanusConfig(
        text_config=words, vision_config={"projection_dim": 4096}, vq_config=codes, image_token_id=100581, tie_word_embeddings=False
    )
    with torch.device("meta"):
        reference = tf.JanusForConditionalGeneration(config)
    assert sum(p.numel() for p in reference.parameters()) == 7_407_773_323
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    again = report(elaborate(vlmgraph.read_spec(import_config(tmp_path / "config.json").spec)))
    assert {p.id: p.total for p in again.parts if p.total} | {"total": again.total} == published("janus-pro")


def test_the_graph_is_that_of_janus() -> None:
    for part in ("graph", "programs", "objectives", "nodes", "processor", "inference", "tokens"):
        assert spec("janus-pro").data[part] == spec("janus").data[part], part
    assert [n.id for n in graph("janus-pro", "tiny").nodes] == [n.id for n in graph("janus", "tiny").nodes]


@torch.no_grad()
def test_same_numbers_as_janus_where_dims_are_the_same() -> None:
    pro, janus = lively("janus-pro"), lively("janus")
    assert all(torch.equal(p, dict(janus.named_parameters())[n]) for n, p in pro.named_parameters())
    inputs = {"pixel_values": noise(1, 3, 56, 56), "input_ids": placed(random_ids(1, 22), 304, (0, 3, 16))}
    assert torch.equal(pro(**inputs)["logits"], janus(**inputs)["logits"])


def test_what_trains() -> None:
    """Stage I: adaptors, image embedding and image head. The tokenizer of images trains in none."""
    model: Any = meta("janus-pro")
    front = {"und_adaptor", "gen_adaptor", "gen_embed", "gen_head"}
    wanted = {"adaptors": front, "unified": front | {"embed", "llm", "head"}, "sft": front | {"embed", "llm", "head", "vision"}}
    for stage, parts in wanted.items():
        assert {name.partition(".")[0] for name in begin(model, stage)} == parts, stage
    assert {row.stage: row.trainable for row in measured("janus-pro").stages} == {
        "adaptors": 121_835_520, "unified": 7_032_201_216, "sft": 7_335_889_920
    }  # fmt: skip


def test_schedule() -> None:
    """Table 1: constant rates behind a warm-up; shares of understanding, text and generation; no ImageNet after the first stage."""
    stages = spec("janus-pro").data["stages"]
    rates = {n: (s["optimizer"]["lr"], s["optimizer"]["batch"], s["optimizer"]["schedule"]["warmup_steps"]) for n, s in stages.items()}
    assert rates == {"adaptors": (1e-3, 256, 600), "unified": (1e-4, 512, 5000), "sft": (4e-5, 128, 0)}
    assert all(s["optimizer"]["schedule"]["type"] == "constant" and s["optimizer"]["betas"] == [0.9, 0.95] for s in stages.values())
    mix = {n: tuple(s["data"]["mix"].values()) for n, s in stages.items()}
    assert mix == {
        "adaptors": (1, 0, 3),
        "unified": (2, 3, 5),
        "sft": (5, 1, 4),
    }
    steps = [s["optimizer"]["schedule"]["steps"] for s in stages.values()]
    assert steps == [20_000, 360_000, 40_000] and stages["unified"]["optimizer"]["schedule"]["stop"] == 270_000
    assert spec("janus-pro", "1b").data["stages"]["sft"]["optimizer"]["schedule"]["steps"] == 80_000
    assert [n for n, s in stages.items() if "imagenet-1k" in s["data"].get("generation", [])] == ["adaptors"]
