"""MiniMax-Text-01 and MiniMax-VL-01 as released: their configuration and weights in a folder, opened like any checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.lower.model import CompiledModel
from vlmgraph.nn.cache import KVCache


def words(c: dict[str, Any], alpha: list[float], beta: list[float]) -> dict[str, Any]:
    """The text part's config.json; factors are of linear attention, softmax attention, MLP."""
    factors = {
        f"layernorm_{name}_{kind}": value
        for kind, values in (("alpha", alpha), ("beta", beta))
        for name, value in zip(("linear_attention", "full_attention", "mlp"), values, strict=True)
    }
    assert c.get("lightning_norm_eps") == 1e-6  # what the released code has, whatever the configuration says
    return {
        "model_type": "minimax_text_01", "vocab_size": c["vocab"], "hidden_size": c["hidden"], "num_hidden_layers": c["layers"],
        "num_attention_heads": c["heads"], "num_key_value_heads": c["kv_heads"], "head_dim": c["head_dim"], "rotary_dim": c["rotary_dim"],
        "rope_theta": c["rope_theta"], "intermediate_size": c["expert_mlp"], "num_local_experts": c["experts"],
        "num_experts_per_tok": c.get("top_k", 2), "attn_type_list": [int(kind == "softmax") for kind in c["layer_types"]],
        "rms_norm_eps": c["norm_eps"], "postnorm": True, "tie_word_embeddings": False, **factors,
    }  # fmt: skip


def opened(vectors: Vectors, config: dict[str, Any], folder: Path) -> CompiledModel:
    """Every key of the file accounted for, and the same file when it is saved."""
    (folder / "config.json").write_text(json.dumps(config))
    weights = vectors.group("param.")
    save_file(weights, folder / "model.safetensors")
    model = vlmgraph.load(folder)
    model.save(folder / "again", format="transformers")
    again = load_file(folder / "again/model.safetensors")
    assert again.keys() == weights.keys() and all(torch.equal(again[key], weights[key]) for key in weights)
    assert model.origin is not None
    vectors.layouts[id(model)] = (model.origin.layout, model.origin.account)
    return model


@pytest.mark.part("42-minimax-vl-01/text_model")
def test_text(vectors: Vectors, tmp_path: Path) -> None:
    """Of the padded row what enters the first softmax layer: the record's plain stand-in for that layer's kernel lets padding in."""
    c = vectors.config
    order = ("linear", "full", "mlp")
    model = opened(vectors, words(c, [c["alpha"][k] for k in order], [c["beta"][k] for k in order]), tmp_path)
    ids, mask = vectors.given("input_ids"), vectors.given("attention_mask")
    whole = mask.all(1)[:, None] & mask.bool()
    first = c["layer_types"].index("softmax")
    with torch.no_grad():
        vectors.close("out.logits", model(input_ids=ids, attention_mask=mask)["logits"], where=whole)
        states = model.llm(model.embed(ids), mask=mask, taps=tuple(range(first + 1)))
        for i in range(first + 1):
            vectors.close(f"mid.hidden.{i}", states[f"hidden.{i}"], where=mask.bool())
        made = model.generate(input_ids=ids[:1], max_new_tokens=3, do_sample=False, eos_token_id=None)
        vectors.same("out.step_tokens", made[:, -3:])
        vectors.close("out.full_rerun_logits", model(input_ids=made)["logits"][:, -3:])
        cache = KVCache()
        model.llm(model.embed(ids[:1]), cache=cache)
        steps = [model.head(model.llm(model.embed(made[:, at : at + 1]), cache=cache)) for at in range(ids.shape[1], made.shape[1])]
        vectors.close("out.step_logits", torch.cat(steps, dim=1))
        vectors.close("out.embeds_logits", model.head(model.llm(vectors.given("inputs_embeds"))))


def views(vectors: Vectors) -> Tensor:
    """Tiles of both images as one array, zeros behind the last of the second."""
    given = [vectors.given(f"tiles.{i}") for i in range(len(vectors.given("image_sizes")))]
    return torch.nn.utils.rnn.pad_sequence(given, batch_first=True)


@pytest.mark.part("42-minimax-vl-01/vl_model")
def test_pictures(vectors: Vectors, tmp_path: Path) -> None:
    c, v = vectors.config, vectors.config["vision"]
    config = {
        "model_type": "minimax_vl_01", "image_token_index": c["image_token"], "image_grid_pinpoints": c["pinpoints_h_w"],
        "vision_feature_layer": v["select_layer"], "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_act": v["act"], "hidden_size": v["hidden"], "num_hidden_layers": v["layers"],
            "num_attention_heads": v["heads"], "intermediate_size": v["mlp"], "image_size": v["image"], "patch_size": v["patch"],
            "layer_norm_eps": v["norm_eps"],
        },
        "text_config": words(c["decoder"], c["decoder"]["alpha"], c["decoder"]["beta"]),
    }  # fmt: skip
    model = opened(vectors, config, tmp_path)
    ids = vectors.given("input_ids")
    pictures = {"pixel_values": views(vectors), "image_sizes": vectors.given("image_sizes")}
    with torch.no_grad():
        rows = model.programs["encode_image"](**pictures)["views"]
        first = len(vectors.tensors["out.packed.0"])
        vectors.close("out.packed.0", rows[:first])
        vectors.close("out.packed.1", rows[first:])
        tiles = pictures["pixel_values"][0]
        vectors.close("mid.projected.0", model.projector(model.vision(tiles)[:, 1:]))
        vectors.close("out.logits", model(**pictures, input_ids=ids)["logits"])
    loss = model.programs["objective.lm"](**pictures, input_ids=ids, labels=ids)["loss"]
    loss.backward()
    vectors.close("out.loss", loss.detach())
    vectors.gradients_close(model)
