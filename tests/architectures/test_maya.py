"""Maya (arXiv 2412.07112): SigLIP with its first patch left out, a two-layer perceptron, Aya-23's parallel blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE = 301
AYA = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
CONFIG = {"model_type": "llava_cohere", **AYA, "rope_theta": 10000, "mm_vision_tower": "google/siglip-base-patch16-256-multilingual",
          "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 768, "mm_vision_select_layer": -2}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("maya")


def multimodal() -> dict[str, Tensor]:
    return {"pixel_values": noise(1, 3, 42, 42), "input_ids": placed(random_ids(1, 16), IMAGE, (0, 3, 8))}


def read(folder: Path, **keys: Any) -> Any:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **keys}))
    return elaborate(vlmgraph.read_spec(import_config(folder / "config.json").spec))


def test_parameters(tmp_path: Path) -> None:
    """Of the spec and of a configuration in the published code's form; 8,028,033,024 in Aya-23, 218,107,904 a layer."""
    counts = published("maya")
    assert counts == {"vision": 85_843_200, "projector": 19_931_136, "embed": 1_048_576_000, "llm": 6_979_457_024, "total": 8_133_807_360}
    assert counts["embed"] + counts["llm"] == 8_028_033_024 and counts["llm"] == 32 * 218_107_904 + 4096
    again = read(tmp_path)
    assert report(again).total == counts["total"]
    ours, theirs = (g.components["llm"].model_dump() for g in (graph("maya"), again))
    for field in ("layers", "width", "heads", "kv_heads", "mlp", "vocab", "norm", "norm_eps", "order", "tie", "logit_scale", "position"):
        assert theirs[field] == ours[field], field


def test_parameters_are_those_of_the_reference() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    with torch.device("meta"):
        words = tf.CohereForCausalLM(tf.CohereConfig(**AYA))
        tower = tf.SiglipVisionModel(tf.SiglipVisionConfig(image_size=256, vision_use_head=False))
    counts = published("maya")
    assert sum(p.numel() for p in words.parameters()) == counts["embed"] + counts["llm"]
    assert sum(p.numel() for p in tower.parameters()) == counts["vision"]


def test_tokens_of_the_published_size(tmp_path: Path) -> None:
    """255: the rule that leaves out a class token leaves out a patch; 256 where it does not."""
    pixels = torch.empty(1, 3, 256, 256, device="meta")
    assert tuple(meta("maya").programs["encode_image"](pixel_values=pixels)["projector"].shape) == (1, 255, 4096)
    (row,) = report(graph("maya"), images=[(997, 31)]).by_image
    assert set(row["tokens"].values()) == {255}
    assert str(read(tmp_path, mm_vision_select_feature="cls_patch").types()["projector"]) == "tokens[N, 256, 4096]"


@torch.no_grad()
def test_features_are_those_before_the_last_layer_without_the_first_patch(model: CompiledModel) -> None:
    pixels = multimodal()["pixel_values"]
    states = model.vision(pixels, taps=(2,))["hidden.2"].double()
    s = state(model.projector)
    features = model.programs["encode_image"](pixel_values=pixels)["projector"]
    close(features, linear(s, "fc2", gelu(linear(s, "fc1", states[:, 1:]))))
    with changed(model, "vision.layers.2.mlp.fc2.weight", "vision.final_norm"):
        assert torch.equal(model.programs["encode_image"](pixel_values=pixels)["projector"], features)
    corner = pixels.clone()
    corner[..., :14, :14] += 1
    before, after = (model.vision(x, taps=(0,))["hidden.0"] for x in (pixels, corner))
    assert (before != after).any(-1)[0].tolist() == [True] + [False] * 8  # its own token, which nobody reads
    assert not torch.equal(model.programs["encode_image"](pixel_values=corner)["projector"], features)  # the others have attended to it


@torch.no_grad()
def test_a_block_has_one_norm_and_two_branches_side_by_side(model: CompiledModel) -> None:
    x, layer = noise(1, 5, 48), model.llm.layers[0]
    y = layer.norms["attention"](x)
    close(layer(x) - x, layer.attention(y) + layer.mlp(y), 1e-5)
    mean, spread = x.double().mean(-1, keepdim=True), x.double().var(-1, correction=0, keepdim=True)
    close(y, (x - mean) / (spread + 1e-5).sqrt() * layer.norms["attention"].weight.double())
    assert list(layer.norms) == ["attention"]
    assert not [name for name, _ in model.llm.named_parameters() if name.endswith("bias")]


@torch.no_grad()
def test_neighbours_turn_together(model: CompiledModel) -> None:
    """Pairs are (0, 1), (2, 3), ...: the first pair by the whole position, in radians."""
    attention = model.llm.layers[0].attention
    assert attention.interleaved and model.llm.rope.interleaved
    cos, sin = model.llm.rope(torch.tensor([[3]]))
    close(cos[0, 0, :2], torch.tensor([3.0, 3.0]).cos())
    close(sin[0, 0, 2:4], (torch.tensor([3.0, 3.0]) * 10000 ** (-2 / 8)).sin())


@torch.no_grad()
def test_logits_are_scaled(model: CompiledModel) -> None:
    ids = random_ids(2, 7)
    logits = model(input_ids=ids)["logits"]
    close(logits, 0.0625 * model.llm(model.embed(ids)) @ model.embed.tokens.weight.T, 1e-6)
    with changed(model, "vision", "projector"):
        assert torch.equal(model(input_ids=ids)["logits"], logits)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_qk_norm", True), ("mm_projector_type", "linear"), ("mm_vision_tower", "google/siglip-so400m"), ("image_aspect_ratio", "anyres")],
)
def test_what_is_not_computed_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=key):
        read(tmp_path, **{key: value})


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (400, 30), (90, 61)])
def test_pixels(size: tuple[int, int]) -> None:
    """A square in the mean colour, the picture in its middle, then SigLIP's own processor; 8 placeholders."""
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    square = PIL.Image.new("RGB", (max(size),) * 2, (127, 127, 127))
    square.paste(picture, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
    theirs = tf.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(size={"height": 42, "width": 42})
    got = processor("maya").ask("What?", images=[picture])
    assert np.abs(got["pixel_values"] - theirs(square, return_tensors="np")["pixel_values"]).max() < 2 / 255
    assert int((got["input_ids"] == IMAGE).sum()) == 8


def test_objective(model: CompiledModel) -> None:
    inputs = multimodal()
    with torch.no_grad():
        loss = model.programs["objective.lm"](**inputs, labels=inputs["input_ids"])["loss"]
        close(loss, next_token_loss(model(**inputs)["logits"], inputs["input_ids"], (IMAGE,)))


@pytest.mark.parametrize(("stage", "parts"), [("pretrain", ("projector.",)), ("finetune", ("projector.", "embed.", "llm.", "head."))])
def test_stages(stage: str, parts: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = multimodal()
    own = fresh("maya")
    assert trains(own, stage, {**inputs, "labels": inputs["input_ids"]}) == {n for n, _ in own.named_parameters() if n.startswith(parts)}
    trainable = {row.stage: row.trainable for row in measured("maya").stages}
    assert trainable == {"pretrain": 19_931_136, "finetune": 8_047_964_160}
