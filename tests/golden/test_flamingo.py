"""OpenFlamingo's resampler, gated block and whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlmgraph
from tests.golden.conftest import Vectors
from vlmgraph.components.connector.resampler import Resampler
from vlmgraph.components.layer.block import GatedCrossBlock
from vlmgraph.nn.cross_mask import CrossMask


@pytest.mark.part("10-flamingo/resampler")
def test_resampler(vectors: Vectors) -> None:
    c = vectors.config
    module = Resampler(
        d=c["dim"], queries=c["num_latents"], layers=c["depth"], heads=c["heads"], head_dim=c["dim_head"], mlp=c["dim"] * c["ff_mult"],
        frames=c["max_num_frames"], media=c["max_num_media"], norm_eps=c["ln_eps"],
    ).build()  # fmt: skip
    vectors.fill(module, "open-flamingo-resampler")
    x = vectors.given("x")
    with torch.no_grad():
        vectors.close("out.latents", module(x))
        vectors.close("out.latents_one_image_one_frame", module(x[:, :1, :1]))


@pytest.mark.part("10-flamingo/gated_xattn")
def test_gated_block(vectors: Vectors) -> None:
    c = vectors.config
    block = GatedCrossBlock(
        width=c["dim"], heads=c["heads"], head_dim=c["dim_head"], d_media=c["dim_visual"], bias=False, norm="norm.layer",
        norm_eps=c["ln_eps"],
        mlp={"type": "mlp.dense", "hidden": c["dim"] * c["ff_mult"], "act": "gelu", "bias": False},
    ).build()  # fmt: skip
    vectors.fill(block, "open-flamingo-block")
    x, media, places = vectors.given("x"), vectors.given("media"), vectors.given("media_locations").long()
    flat = media.flatten(1, 2)
    with torch.no_grad():
        last = CrossMask(1, "last_image")(media, places)
        vectors.close("out.y", block(x, flat, last["out"]))
        after = CrossMask(1, "last_image")(media, torch.zeros(vectors.given("x_tail").shape[:2], dtype=torch.long), seen=last["seen"])
        vectors.close("out.y_cached", block(vectors.given("x_tail"), flat, after["out"]))
        branch = block.cross(block.norms["cross"](x), flat, last["out"]) * last["out"].any(-1, keepdim=True)
        vectors.close("mid.attn", branch)
        # before the first image the reference's ablation form averages over all media; ours takes nothing
        earlier = CrossMask(1, "all_previous")(media, places)["out"]
        vectors.close("out.y_all_previous", block(x, flat, earlier), where=earlier.any(-1))


def spec(c: dict[str, Any]) -> dict[str, Any]:
    vision, lm, res, gated = c["vision"], c["lm"], c["resampler"], c["xattn"]
    assert lm["kind"] == "llama" and vision["act"].startswith("gelu")
    block = {
        "type": "block.gated_cross_attention",
        "heads": gated["heads"],
        "head_dim": gated["dim_head"],
        "bias": False,
        "norm": "norm.layer",
        "norm_eps": 1e-5,
        "mlp": {"type": "mlp.dense", "hidden": lm["hidden"] * gated["ff_mult"], "act": "gelu", "bias": False},
    }
    every = gated["every_n_layers"]
    return {
        "vlmgraph": 1,
        "extends": "flamingo",
        "expect": {"remove": True},
        "stages": {"train": {"remove": True}},
        "inputs": {"pixel_values": f"video[B, M, F, 3, {vision['image']}, {vision['image']}]?"},
        "tokens": {"<image>": c["media_token_id"], "<|endofchunk|>": c["eoc_token_id"], "<PAD>": 0},
        "components": {
            "vision": {
                "image_size": vision["image"],
                "patch": vision["patch"],
                "width": vision["width"],
                "layers": vision["layers"],
                "heads": vision["heads"],
                "mlp": vision["width"] * vision["mlp_ratio"],
                "act": "gelu",
                "norm_eps": vision["ln_eps"],
            },
            "resampler": {
                "queries": res["num_latents"],
                "layers": res["depth"],
                "heads": res["heads"],
                "head_dim": res["dim_head"],
                "mlp": vision["width"] * 4,
            },
            "embed": {"added": 0},
            "head": {"added": 0},
            "llm": {
                "preset": "llama-7b",
                "vocab": lm["vocab"],
                "layers": lm["layers"],
                "width": lm["hidden"],
                "heads": lm["heads"],
                "mlp": lm["intermediate"],
                "norm": "norm.rms",
                "norm_eps": lm["rms_norm_eps"],
                "position": {"type": "position.rope", "theta": lm["rope_theta"]},
                "insert": [{"name": "xattn", "every": every, "start": every - 1, "at": "before", "port": "media", "block": block}],
            },
        },
    }


@pytest.mark.part("10-flamingo/model")
def test_model(vectors: Vectors) -> None:
    c = vectors.config
    model = vlmgraph.compile(spec(c))
    vectors.fill(model, "open-flamingo", dim=c["vision"]["width"])
    model.requires_grad_(True)
    ids, mask, pixels, labels = (vectors.given(n) for n in ("lang_x", "attention_mask", "vision_x", "labels"))
    out = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    vectors.close("out.logits", out["logits"].detach(), where=mask.bool())
    logits = out["logits"][:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    vectors.close("out.loss", loss.detach())
    loss.backward()
    vectors.gradients_close(model, without=("vision_encoder.",))  # the reference's tower runs without gradients
    with torch.no_grad():
        vectors.close("mid.latents", model.programs["encode_image"](pixel_values=pixels)["resampler"])


@pytest.mark.part("10-flamingo/model")
def test_later_text_stays_with_the_last_image(vectors: Vectors) -> None:
    """What decoding relies on: text behind the images, by itself, reads the last one."""
    model = vlmgraph.compile(spec(vectors.config))
    vectors.fill(model, "open-flamingo", dim=vectors.config["vision"]["width"])
    ids, tail, pixels = (vectors.given(n) for n in ("lang_x", "lang_tail", "vision_x"))
    with torch.no_grad():
        media = model.programs["encode_image"](pixel_values=pixels)["resampler"]
        seen = model.xmask(media=media, ids=ids)["seen"]
        allowed = model.xmask(media=media, ids=tail, seen=seen)["out"]
        states = model.llm(model.embed(tail), media=media.flatten(1, 2), media_mask=allowed)
        vectors.close("out.logits_tail_cached", model.head(states))
