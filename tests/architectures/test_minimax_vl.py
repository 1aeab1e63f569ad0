"""MiniMax-VL-01 (arXiv 2501.08313, section 5): a ViT of its own, two linear layers, tiles up to 2016 pixels, all tokens kept."""

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
from tests.architectures.common import close, fresh, graph, lively, measured, noise, placed, processor, published, random_ids, trains
from vlmgraph.api import elaborate
from vlmgraph.components.layer.position import Rotary
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.processor.any_resolution import any_resolution
from vlmgraph.processor.config import AnyResolution
from vlmgraph.report.measure import report
from vlmgraph.train.stage import begin
from vlmgraph.weights.import_config import import_config

SPEC, TEXT, IMAGE = "minimax-vl-01", "minimax-text-01", 300
CANVASES: list[list[int]] = [[336 * h, 336 * w] for h in range(1, 7) for w in range(1, 7) if w <= (6 if h < 4 else 4 if h == 4 else 3)]
FACTORS = {
    f"layernorm_{name}_{kind}": value
    for name in ("full_attention", "linear_attention", "mlp")
    for kind, value in (("alpha", 3.5565588200778455), ("beta", 1.0))
}
WORDS: dict[str, Any] = {
    "model_type": "minimax_text_01", "attn_type_list": [int(i % 8 == 7) for i in range(80)], "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 6144, "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 64, "num_experts_per_tok": 2,
    "num_hidden_layers": 80, "num_key_value_heads": 8, "num_local_experts": 32, "postnorm": True, "rms_norm_eps": 1e-5,
    "rope_theta": 10000000, "rotary_dim": 64, "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "vocab_size": 200064, **FACTORS,
}  # fmt: skip
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_act": "gelu", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 6144,
}  # fmt: skip
TOP: dict[str, Any] = {
    "model_type": "minimax_vl_01", "image_grid_pinpoints": CANVASES, "image_token_index": 200025, "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default", "image_seq_length": 576, "ignore_index": -100, "projector_hidden_act": "gelu",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively(SPEC)


def imported(folder: Path, words: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    path = folder / "config.json"
    path.write_text(json.dumps({**TOP, "vision_config": VISION, "text_config": {**WORDS, **(words or {})}, **keys}))
    return import_config(path).spec


def given(rows: int = 1) -> dict[str, Tensor]:
    count = 9 + 3 * 7
    ids = placed(random_ids(rows, count + 6), IMAGE, *((row, 2, count) for row in range(rows)))
    return {"pixel_values": noise(rows, 3, 3, 42, 42), "image_sizes": torch.tensor([[42, 84]] * rows), "input_ids": ids}


# ---- what was published


def test_parameters(tmp_path: Path) -> None:
    counts = published(SPEC)
    assert counts["vision"] == 303_505_408  # CLIP's ViT-L/14 at 336 without the norm behind its last layer
    assert counts["projector"] + counts["views"] == 44_058_624 and counts["views"] == 6144
    assert counts["total"] - counts["vision"] - counts["projector"] - counts["views"] == measured(TEXT).total == 456_089_655_296
    again = elaborate(vlmgraph.read_spec(imported(tmp_path)))
    assert report(again).total == counts["total"]
    own: Any = graph(SPEC)
    for name in ("vision", "projector", "views"):
        assert again.components[name] == own.components[name]
    theirs: Any = again.components["llm"]
    assert theirs.sequence == own.components["llm"].sequence and theirs.code.dim == own.components["llm"].code.dim == 64
    assert [i for i, kind in enumerate(theirs.sequence) if kind == "full"] == list(range(7, 80, 8))


def test_tokens() -> None:
    """A thumbnail of 576 and w + 1 for each of h rows of patches, none of them pooled; on 28 canvases from 336 to 2016 pixels."""
    views: Any = graph(SPEC).components["views"]
    assert [list(canvas) for canvas in views.canvases] == CANVASES and len(CANVASES) == 28
    for height, width, tokens in ((336, 336, 1176), (672, 672, 2928), (1344, 1344, 576 + 96 * 97), (2016, 1008, 576 + 144 * 73)):
        assert views.length(height, width) == tokens
    assert views.length(300, 4000) == 576 + 10 * 145 and views.length(4000, 300) == 576 + 144 * 11


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vision_feature_layer", -2), ("vision_feature_select_strategy", "full"), ("process_image_mode", "resize"),
        ("text.postnorm", False), ("text.shared_intermediate_size", 16), ("text.sliding_window", 8), ("text.attn_type_list", [0, 2]),
        ("text.attn_type_list", None), ("text.hidden_act", "gelu"), ("text.rope_scaling", {"type": "linear"}),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(key: str, value: Any, tmp_path: Path) -> None:
    place, _, name = key.rpartition(".")
    with pytest.raises(DiagnosticError, match=name):
        imported(tmp_path, **({"words": {name: value}} if place else {name: value}))


def test_turned_values_of_a_head() -> None:
    assert Rotary(head_dim=6, dims=4).dim == 4 and Rotary(head_dim=49, dims=2).dim == 2 and Rotary(head_dim=8, fraction=0.5).dim == 4
    with pytest.raises(ValueError, match="a head has 6 values, not 8"):
        Rotary(head_dim=6, dims=8)


# ---- the graph


@torch.no_grad()
def test_the_last_layer_is_read(model: CompiledModel) -> None:
    """No norm behind it, no class token; each view by itself through tower and projector."""
    images = noise(1, 3, 3, 42, 42)
    states = model.vision(images[0], taps=(2,))
    assert torch.equal(states["out"], states["hidden.2"])
    rows = model.programs["encode_image"](pixel_values=images, image_sizes=torch.tensor([[42, 84]]))["views"]
    tiles = model.projector(states["out"][:, 1:]).unflatten(1, (3, 3))
    line = model.views.newline.expand(3, 1, -1)
    close(rows, torch.cat([tiles[0].flatten(0, 1), torch.cat([tiles[1], tiles[2], line], 1).flatten(0, 1)]), 2e-6)


@torch.no_grad()
def test_pictures_reach_the_logits_and_text_does_not_need_them(model: CompiledModel) -> None:
    inputs = given()
    before = model(**inputs)["logits"]
    after = model(**{**inputs, "pixel_values": inputs["pixel_values"] + 1})["logits"]
    assert (before != after).any(-1)[0].nonzero()[0].item() == 2
    ids = random_ids(2, 9)
    assert torch.equal(model(input_ids=ids)["logits"], model.head(model.llm(model.embed(ids))))
    made = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(made, model.generate(**inputs, max_new_tokens=3, use_cache=False))


# ---- pictures


def test_pictures_as_in_transformers() -> None:
    """LLaVA-NeXT's processor on these canvases, a fourteenth as large: the same views, pixels within one 8-bit step."""
    pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    canvases = [[side // 14 for side in canvas] for canvas in CANVASES]
    rng = np.random.default_rng(3)
    shapes = [(1, 1), (1, 90), (300, 4000), (4000, 300), (61, 56), *(tuple(rng.integers(1, 300, 2)) for _ in range(8))]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in shapes]
    size = {"height": 24, "width": 24}
    wanted = LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=canvases)(pictures, return_tensors="np")
    got = any_resolution("x", AnyResolution(size=24, canvases=canvases, also={"s": "sizes"}), pictures, [len(pictures)])
    assert np.array_equal(got["s"], wanted["image_sizes"]) and got["x"].shape == wanted["pixel_values"].shape
    assert np.abs(got["x"] - wanted["pixel_values"]).max() <= 1.01 / 255 / 0.26130258


def test_prompt() -> None:
    own = processor(SPEC, None)
    row = own.ask("What?", images=[PIL.Image.new("RGB", (672, 672)), PIL.Image.new("RGB", (100, 100))])
    assert (row["input_ids"] == 200025).sum() == 2928 + 1176 and row["pixel_values"].shape == (2, 5, 3, 336, 336)
    assert row["image_sizes"].tolist() == [[672, 672], [100, 100]]
    small = processor(SPEC, "tiny", None, "align")(images=[PIL.Image.new("RGB", (84, 84))])
    assert small["pixel_values"].shape == (1, 2, 3, 42, 42)  # in the first stage no picture is cut


# ---- stages


def test_training() -> None:
    own = fresh(SPEC)
    inputs = {**given(), "labels": given()["input_ids"]}
    assert {name.partition(".")[0] for name in trains(own, "align", inputs, steps=2)} == {"vision", "projector", "views"}
    own = fresh(SPEC)
    names = set(begin(own, "multimodal"))
    assert names == {name for name, _ in own.named_parameters()}
    balance = own.programs["objective.router"](**given())["loss"]
    balance.backward()
    reached = {n for n, p in own.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {f"llm.layers.{i}.mlp.router.weight" for i in range(4)} <= reached and not any(n.startswith("head") for n in reached)
    assert graph(SPEC).stages["multimodal"].objectives == {"lm": 1.0, "router": 0.001} == graph(SPEC).stages["quality"].objectives


def test_preferences() -> None:
    """A policy that is its own reference is at log 2."""
    own = fresh(SPEC, variant="dpo")
    names = set(begin(own, "dpo"))
    batch: dict[str, Tensor] = {}
    for side, seed in (("chosen", 1), ("rejected", 2)):
        inputs = given()
        inputs["input_ids"][:, -4:] = random_ids(1, 4, seed=seed)
        batch |= {f"{side}_{name}": value for name, value in {**inputs, "labels": inputs["input_ids"]}.items()}
    loss = own.programs["objective.dpo"](**batch)["loss"]
    close(loss.detach(), torch.tensor(2.0).log(), 1e-6)
    loss.backward()
    assert {n.partition(".")[0] for n in names} == {"vision", "projector", "views", "embed", "llm", "head"}
