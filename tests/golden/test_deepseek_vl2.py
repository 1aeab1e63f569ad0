"""DeepSeek-VL2's official code: the whole model with latent attention and without, its router, its processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.components.layer.moe import MixtureOfExperts
from vlmgraph.components.loss.balance import LoadBalance
from vlmgraph.nn.cache import KVCache
from vlmgraph.processor.padded_tiles import best_grid, padded_tiles
from vlmgraph.processor.padded_tiles_config import PaddedTiles

PART = "61-deepseek-vl2/"


def folder(vectors: Vectors, path: Path) -> Path:
    """A checkpoint as it is published: config.json, the weights under their names, a tokenizer that knows the image's token."""
    c = vectors.config
    language = {
        "model_type": "deepseek_v2", "vocab_size": c["vocab"], "hidden_size": c["hidden"], "intermediate_size": c["mlp"],
        "moe_intermediate_size": c["moe_mlp"], "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"],
        "num_key_value_heads": c["heads"], "n_shared_experts": c["shared"], "n_routed_experts": c["experts"],
        "num_experts_per_tok": c["top_k"], "routed_scaling_factor": c["routed_scaling"], "kv_lora_rank": c["kv_lora"], "q_lora_rank": None,
        "qk_rope_head_dim": c["rope"], "qk_nope_head_dim": c["nope"], "v_head_dim": c["v_dim"], "topk_method": c["topk_method"],
        "n_group": c["n_group"], "topk_group": c["topk_group"], "scoring_func": c["scoring"], "norm_topk_prob": c["norm_topk"],
        "first_k_dense_replace": 1, "use_mla": c.get("use_mla", True), "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    config = {
        "model_type": "deepseek_vl_v2", "tile_tag": "2D", "global_view_pos": "head", "candidate_resolutions": c["candidates"],
        "language_config": language,
        "projector_config": {"model_type": "mlp_projector", "n_embed": c["hidden"], "input_dim": c["v_width"]},
        "vision_config": {
            "model_type": "vision", "model_name": "siglip_so400m_patch14_384", "image_size": c["tile"], "patch_size": c["patch"],
            "width": c["v_width"], "layers": c["v_layers"], "heads": c["v_heads"], "mlp_ratio": c["v_mlp_ratio"],
        },
    }  # fmt: skip
    words = {"<image>": c["vocab"] - 1, "?": 2}
    tokenizer = {
        "version": "1.0", "added_tokens": [{"id": c["vocab"] - 1, "content": "<image>", "special": True, "single_word": False,
        "lstrip": False, "rstrip": False, "normalized": False}], "model": {"type": "WordLevel", "vocab": words, "unk_token": "?"},
    }  # fmt: skip
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file({key: value.contiguous() for key, value in vectors.group("param.").items()}, path / "model.safetensors")
    return path


@pytest.mark.part(PART + "whole_model")
def test_whole_model(vectors: Vectors, tmp_path: Path) -> None:
    whole(vectors, tmp_path)


@pytest.mark.part(PART + "whole_model_tiny")
def test_whole_model_with_ordinary_attention(vectors: Vectors, tmp_path: Path) -> None:
    whole(vectors, tmp_path)


@torch.no_grad()
def whole(vectors: Vectors, tmp_path: Path) -> None:
    """Two texts of different lengths, padded on the left, with two images and one; the first padded image of a text is left out."""
    model = vlmgraph.load(folder(vectors, tmp_path / "a"))
    images, crops = vectors.given("images"), vectors.given("images_spatial_crop")
    views = [sum(1 + w * h for w, h in row if w) for row in crops.tolist()]
    grids = crops.flatten(0, 1)
    pixels = torch.cat([row[:count] for row, count in zip(images, views)])
    ids, mask = vectors.given("input_ids"), vectors.given("attention_mask")
    real = mask.bool()
    assert torch.equal(ids == model.graph.tokens["<image>"], vectors.given("images_seq_mask").bool())
    features = model.vision(pixels[: views[0]])
    vectors.close("mid.vision_features_0", features)
    vectors.close("mid.projected_0", model.projector(model.merge(features)))
    packed = model.programs["encode_image"](pixel_values=pixels, images_spatial_crop=grids)["views"]
    spliced = model.splice(text=model.embed(ids), ids=ids, vision=packed)["out"]
    vectors.close("mid.inputs_embeds", spliced, real)
    vectors.close("mid.hidden_layer1", model.llm(spliced, mask, taps=(1,))["hidden.1"], real)
    given = {"pixel_values": pixels, "images_spatial_crop": grids, "input_ids": ids, "attention_mask": mask}
    logits = model(**given)["logits"]
    vectors.close("out.logits", logits, real)
    labels = vectors.given("labels").clone()
    shifted = F.cross_entropy(vectors.tensors["out.logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(shifted, vectors.tensors["out.loss"])
    labels[:, 1:][~real[:, :-1]] = -100  # what padding predicts means nothing
    wanted = F.cross_entropy(vectors.tensors["out.logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss = model.programs["objective.lm"](**given, labels=labels)["loss"]
    assert abs(loss - wanted) < vectors.tolerance * wanted
    cache = KVCache()
    parts = [model.llm(spliced[:, a:b], mask[:, :b], cache=cache) for a, b in ((0, 68), (68, 69), (69, 71))]
    vectors.close("out.logits", model.head(torch.cat(parts, 1)), real)
    model.save(tmp_path / "b", format="transformers")
    first, second = load_file(tmp_path / "a/model.safetensors"), load_file(tmp_path / "b/model.safetensors")
    assert first.keys() - second.keys() == {key for key in first if ".attn_pool." in key} and first.keys() >= second.keys()
    assert all(torch.equal(value, first[key]) for key, value in second.items())


@torch.no_grad()
@pytest.mark.part(PART + "gate")
def test_routers(vectors: Vectors) -> None:
    """By scores with a bias and without, over groups and over all; the bias chooses and does not weigh."""
    c = vectors.config
    for name, v in c["variants"].items():
        fields: dict[str, Any] = {} if v["topk_method"] == "greedy" else {"groups": v["n_group"], "kept_groups": v["topk_group"]}
        if v["topk_method"] == "noaux_tc":
            fields |= {"bias_step": 1e-3, "group_score": "two_best"}
        moe = MixtureOfExperts(
            width=c["hidden"], experts=c["experts"], top_k=c["top_k"], hidden=4, act="silu", score=v["scoring"],
            renormalise=v["norm_topk"], scale=v["routed_scaling"], precise=True, **fields,
        ).build()  # fmt: skip
        own = vectors.group(f"param.{name}.")
        moe.router.weight.copy_(own["weight"])
        if "e_score_correction_bias" in own:
            moe.bias.copy_(own["e_score_correction_bias"])
        shares = moe.shares(moe.router(vectors.given("x")).flatten(0, 1))
        vectors.close(f"out.{name}_dense_weights", shares)
        vectors.same(f"out.{name}_chosen", shares > 0)


@pytest.mark.part(PART + "moe_train")
def test_training_of_experts(vectors: Vectors) -> None:
    """Weights, output, the loss that balances over each sequence, and all gradients of both together."""
    c = vectors.config
    moe = MixtureOfExperts(
        width=c["hidden"], experts=c["experts"], top_k=c["top_k"], hidden=c["moe_mlp"], shared=c["moe_mlp"] * c["shared"], act="silu",
        renormalise=c["norm_topk"], scale=c["routed_scaling"], precise=True,
    ).build()  # fmt: skip
    names = {"gate.weight": "router.weight", "gate_proj": "gate", "up_proj": "up", "down_proj": "down", "shared_experts": "shared"}

    def ours(name: str) -> str:
        for theirs, own in names.items():
            name = name.replace(theirs, own)
        return name

    moe.load_state_dict({ours(key): value for key, value in vectors.group("param.").items()})
    x = vectors.given("x").clone().requires_grad_()
    routes: list[torch.Tensor] = []
    y = moe.train()(x, routes)
    shares = moe.shares(routes[0].flatten(0, 1))
    vectors.close("mid.dense_weights", shares.detach())
    vectors.same("mid.expert_counts", (shares > 0).sum(0))
    aux = c["alpha"] * LoadBalance(top_k=c["top_k"], per="sequence").build()(torch.stack(routes))
    vectors.close("out.aux_loss", aux.detach())
    vectors.close("out.y", y.detach())
    vectors.close("out.y_eval", moe.eval()(x).detach())
    (y.square().sum() + aux).backward()
    grads = dict(moe.named_parameters())
    for name, norm in vectors.group("out.grad_norm.").items():
        assert abs(grads[ours(name)].grad.norm() - norm) <= vectors.tolerance * norm.clamp(min=1), name
    assert abs(x.grad.norm() - vectors.tensors["out.grad_norm_input"]) <= vectors.tolerance * x.grad.norm()  # type: ignore[union-attr]


@pytest.mark.part(PART + "processor")
def test_processor(vectors: Vectors) -> None:
    """Grids for eighty sizes, and two pictures in views whose pixels are the same to float precision."""
    c = vectors.config
    grids = PaddedTiles().grids()
    assert len(grids) == 23
    found = [best_grid(width, height, grids) for width, height in vectors.given("sizes_w_h").tolist()]
    assert found == [tuple(row) for row in vectors.tensors["out.best_384_w_h"].tolist()]
    pictures = [vectors.given(f"image_{i}").numpy() for i in range(2)]
    made = padded_tiles("x", PaddedTiles(size=c["tile"], stats=0.5, also={"tiles": "tiles"}), pictures, [2])
    assert made["tiles"].tolist() == vectors.tensors["out.images_spatial_crop"].tolist()
    assert np.abs(made["x"] - vectors.tensors["out.tiles"].numpy()).max() < 1e-6
