"""DeepSeek-VL 1.3B (arXiv 2403.05525): SigLIP, two linear layers, DeepSeek-LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.by_hand import gelu, linear, state
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    measured,
    meta,
    next_token_loss,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)  # fmt: skip
from vlmgraph.api import elaborate
from vlmgraph.lower.model import CompiledModel
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE = 302
VISION = {"model_type": "siglip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 16, "image_size": 384, "patch_size": 16, "vision_use_head": False}  # fmt: skip
TEXT = {"model_type": "llama", "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24,
        "num_attention_heads": 16, "max_position_embeddings": 16384, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("deepseek-vl", "tiny", "1.3b")


def multimodal() -> dict[str, Tensor]:
    return {"pixel_values": noise(1, 3, 42, 42), "input_ids": placed(random_ids(1, 16), IMAGE, (0, 3, 9))}


def test_parameters(tmp_path: Path) -> None:
    counts = published("deepseek-vl", None, "1.3b")
    assert counts == {
        "vision": 303_688_704, "aligner": 6_295_552, "embed": 209_715_200, "llm": 1_214_351_360, "head": 209_715_200, "total": 1_943_766_016
    }  # fmt: skip
    config = {"model_type": "deepseek_vl", "vision_config": VISION, "text_config": TEXT, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = elaborate(vlmgraph.read_spec(import_config(tmp_path / "config.json").spec))
    assert report(again).total == counts["total"]
    ours, read = (g.components["llm"].model_dump() for g in (graph("deepseek-vl", None, "1.3b"), again))
    for field in ("layers", "width", "heads", "mlp", "vocab", "norm_eps", "max_positions", "tie"):
        assert read[field] == ours[field], field
    assert "pool" not in again.components


def test_parameters_are_those_of_the_reference() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    words = {**{k: v for k, v in TEXT.items() if k != "rope_theta"}, "rope_parameters": rope}
    config = tf.DeepseekVLConfig(vision_config=VISION, text_config=words, tie_word_embeddings=False)
    with torch.device("meta"):
        reference = tf.DeepseekVLForConditionalGeneration(config)
    assert sum(p.numel() for p in reference.parameters()) == published("deepseek-vl", None, "1.3b")["total"]


def test_tokens_of_the_published_size() -> None:
    pixels = torch.empty(1, 3, 384, 384, device="meta")
    assert tuple(meta("deepseek-vl", None, "1.3b").programs["encode_image"](pixel_values=pixels)["aligner"].shape) == (1, 576, 2048)
    (row,) = report(graph("deepseek-vl", None, "1.3b"), images=[(997, 31)]).by_image
    assert set(row["tokens"].values()) == {576}


@torch.no_grad()
def test_the_aligner_reads_what_leaves_the_final_norm(model: CompiledModel) -> None:
    pixels = multimodal()["pixel_values"]
    x = model.vision(pixels).double()
    assert x.shape == (1, 9, 40)
    s = state(model.aligner)
    wanted = linear(s, "fc2", gelu(linear(s, "fc1", x)))
    close(model.programs["encode_image"](pixel_values=pixels)["aligner"], wanted)
    with changed(model, "vision.final_norm"):
        assert not torch.equal(model.vision(pixels).double(), x)


@torch.no_grad()
def test_texts_alone_are_the_language_model(model: CompiledModel) -> None:
    ids = random_ids(2, 7)
    logits = model(input_ids=ids)["logits"]
    close(logits, model.head(model.llm(model.embed(ids))), 1e-6)
    with changed(model, "vision", "aligner"):
        assert torch.equal(model(input_ids=ids)["logits"], logits)


@torch.no_grad()
def test_pictures_reach_what_follows_them(model: CompiledModel) -> None:
    inputs = multimodal()
    before, after = model(**inputs)["logits"], model(**{**inputs, "pixel_values": inputs["pixel_values"] + 1})["logits"]
    assert torch.equal(before[:, :3], after[:, :3]) and bool((before[:, 3:] != after[:, 3:]).any(-1).all())


def test_the_processor_pads_to_a_square_in_the_middle() -> None:
    """The long side to the full width, grey above and below; as many placeholders as tokens."""
    inputs = processor("deepseek-vl", "tiny", "1.3b").ask("What?", images=[PIL.Image.new("RGB", (84, 42), (255, 0, 0))])
    column = inputs["pixel_values"][0, 0, :, 20]
    assert [round(float(column[y]), 2) for y in (0, 9, 12, 30, 33, 41)] == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert int((inputs["input_ids"] == IMAGE).sum()) == 9


def test_objective(model: CompiledModel) -> None:
    inputs = multimodal()
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs, labels=inputs["input_ids"])["loss"]
        close(loss, next_token_loss(model(**inputs)["logits"], inputs["input_ids"], (IMAGE,)))


@pytest.mark.parametrize(
    ("stage", "parts"), [("adaptor", ("aligner.",)), ("joint", ("aligner.", "embed.", "llm.", "head.")), ("sft", ("",))]
)
def test_stages(stage: str, parts: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = multimodal()
    own = fresh("deepseek-vl", "tiny", "1.3b")
    assert trains(own, stage, {**inputs, "labels": inputs["input_ids"]}) == {n for n, _ in own.named_parameters() if n.startswith(parts)}
    trainable = {row.stage: row.trainable for row in measured("deepseek-vl", None, "1.3b").stages}
    assert trainable == {"adaptor": 6_295_552, "joint": 1_640_077_312, "sft": 1_943_766_016}
