"""CogVLM's vision tower and decoder with visual experts against what the official code computed (all dims from the vector's JSON)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmgraph.components.connector.glu import GLUConnector
from vlmgraph.components.decoder.transformer import DecoderTransformer
from vlmgraph.components.vision.vit import VisionTransformer

GOLDEN = Path(__file__).parents[1] / "golden" / "87-cogvlm" / "sat_vision_expert_lm"
VIT, LM = "mixins.eva.vit_model.transformer.", "transformer.layers."


@pytest.fixture(scope="module")
def vectors():
    about = json.loads(GOLDEN.with_suffix(".json").read_text())
    return about["config"], about["tolerance"], load_file(GOLDEN.with_suffix(".safetensors"))


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() / theirs.norm() < tolerance


def load(module, state):
    shapes = {name: p.shape for name, p in module.state_dict().items()}
    module.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in state.items()})
    return module.eval()


def tower(c, tensors):
    p = {name.removeprefix("param."): t for name, t in tensors.items() if name.startswith("param.")}
    state = {
        "cls": p[f"{VIT}word_embeddings.weight"],
        "position.weight": p[f"{VIT}position_embeddings.weight"],
        "patch.proj.weight": p["mixins.eva.vit_model.mixins.patch_embedding.proj.weight"],
        "patch.proj.bias": p["mixins.eva.vit_model.mixins.patch_embedding.proj.bias"],
    }
    for i in range(c["vit_layers"]):
        for kind in ("weight", "bias"):
            for part, letter in zip(p[f"{VIT}layers.{i}.attention.query_key_value.{kind}"].chunk(3), "qkv", strict=True):
                state[f"layers.{i}.attention.{letter}.{kind}"] = part
            for theirs, ours in (
                ("attention.dense", "attention.out"),
                ("input_layernorm", "norms.attention"),
                ("post_attention_layernorm", "norms.mlp"),
                ("mlp.dense_h_to_4h", "mlp.fc1"),
                ("mlp.dense_4h_to_h", "mlp.fc2"),
            ):
                state[f"layers.{i}.{ours}.{kind}"] = p[f"{VIT}layers.{i}.{theirs}.{kind}"]
    config = VisionTransformer(
        image_size=c["image_size"],
        patch=c["patch"],
        layers=c["vit_layers"],
        width=c["vit_dim"],
        heads=c["vit_heads"],
        mlp=c["vit_mlp"],
        order="sub_post",
        norm_eps=1e-6,
        drop_prefix=True,
    )
    return load(config.build(), state)


def decoder(c, tensors):
    p = {name.removeprefix("param."): t for name, t in tensors.items() if name.startswith("param.")}
    state = {"final_norm.weight": p["transformer.final_layernorm.weight"]}
    for i in range(c["layers"]):
        own = {
            "text": (
                f"{LM}{i}.attention.query_key_value",
                f"{LM}{i}.attention.dense",
                f"mixins.mlp.gate_proj.{i}",
                f"{LM}{i}.mlp.dense_h_to_4h",
                f"{LM}{i}.mlp.dense_4h_to_h",
            ),
            "vision": (
                f"mixins.rotary.vision_query_key_value_list.{i}",
                f"mixins.rotary.vision_dense_list.{i}",
                f"mixins.mlp.vision_gate_proj.{i}",
                f"mixins.mlp.vision_dense_h_to_4h_list.{i}",
                f"mixins.mlp.vision_dense_4h_to_h_list.{i}",
            ),
        }
        for expert, (qkv, out, gate, up, down) in own.items():
            for part, letter in zip(p[f"{qkv}.weight"].chunk(3), "qkv", strict=True):
                state[f"layers.{i}.attention.experts.{expert}.{letter}.weight"] = part
            state[f"layers.{i}.attention.experts.{expert}.out.weight"] = p[f"{out}.weight"]
            for name, theirs in (("gate", gate), ("up", up), ("down", down)):
                state[f"layers.{i}.mlp.experts.{expert}.{name}.weight"] = p[f"{theirs}.weight"]
        state[f"layers.{i}.norms.attention.weight"] = p[f"{LM}{i}.input_layernorm.weight"]
        state[f"layers.{i}.norms.mlp.weight"] = p[f"{LM}{i}.post_attention_layernorm.weight"]
    experts = {"experts": ["text", "vision"]}
    config = DecoderTransformer(
        layers=c["layers"],
        width=c["dim"],
        heads=c["heads"],
        norm_eps=1e-5,
        attention={"type": "attention.modality_expert", **experts},
        mlp={"type": "mlp.modality_expert", "hidden": c["mlp"], **experts},
    )
    return load(config.build(), state)


@torch.no_grad()
def test_tower(vectors):
    c, tolerance, tensors = vectors
    close(tower(c, tensors)(tensors["in.images"]), tensors["out.vit_features"], tolerance)


@torch.no_grad()
def test_decoder(vectors):
    c, tolerance, tensors = vectors
    embed, head = (tensors[f"param.{name}.weight"] for name in ("transformer.word_embeddings", "mixins.lm.lm_head"))
    bridge = {
        name: f"mixins.eva.linear_proj.{theirs}"
        for name, theirs in (
            ("proj", "linear_proj"),
            ("norm", "norm1"),
            ("gate", "gate_proj"),
            ("up", "dense_h_to_4h"),
            ("down", "dense_4h_to_h"),
        )
    }
    state = {f"{name}.weight": tensors[f"param.{theirs}.weight"] for name, theirs in bridge.items()} | {
        "norm.bias": tensors["param.mixins.eva.linear_proj.norm1.bias"]
    }
    adapter = load(GLUConnector(d_in=c["vit_dim"], out=c["dim"], hidden=c["mlp"]).build(), state)
    features = adapter(tensors["out.vit_features"])
    wrapped = torch.cat(
        [tensors[f"param.mixins.eva.{n}"].expand(len(features), -1, -1) if n else features for n in ("boi", "", "eoi")], dim=1
    )
    x = embed[tensors["in.input_ids"]][None]
    x[tensors["in.image_embed_mask"].bool()] = wrapped.flatten(0, 1)
    llm = decoder(c, tensors)
    out = llm(x, positions=tensors["out.position_ids"], modality=tensors["in.vision_expert_mask"], taps=(1, 2))
    close(out["hidden.1"], tensors["mid.layer_0_out"], tolerance)
    close(out["hidden.2"], tensors["mid.layer_1_out"], tolerance)
    close(out["out"] @ head.T, tensors["out.logits"], tolerance)
    close(llm(embed[tensors["in.text_ids"]][None]) @ head.T, tensors["out.text_only_logits"], tolerance)
