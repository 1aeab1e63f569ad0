"""CogVLM's tower, adapter, position rule and decoder with visual experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlmgraph
from tests.golden.conftest import Vectors


def spec(c: dict[str, Any]) -> dict[str, Any]:
    size = c["image_size"]
    return {
        "vlmgraph": 1,
        "extends": "cogvlm",
        "expect": {"remove": True},
        "inputs": {"pixel_values": f"image[N, 3, {size}, {size}]?"},
        "tokens": {"<image>": 0, "<s>": 1, "</s>": 2},
        "components": {
            "vision": {
                "image_size": size,
                "patch": c["patch"],
                "layers": c["vit_layers"],
                "width": c["vit_dim"],
                "heads": c["vit_heads"],
                "mlp": c["vit_mlp"],
            },
            "adapter": {"hidden": c["mlp"]},
            "llm": {
                "layers": c["layers"],
                "width": c["dim"],
                "heads": c["heads"],
                "kv_heads": c["heads"],
                "mlp": {"hidden": c["mlp"]},
                "vocab": c["vocab"],
            },
        },
    }


@pytest.mark.part("87-cogvlm/sat_vision_expert_lm")
def test_model(vectors: Vectors) -> None:
    c = vectors.config
    model = vlmgraph.compile(spec(c))
    vectors.fill(model, "sat-cogvlm")
    images, ids, text = vectors.given("images"), vectors.given("input_ids")[None], vectors.given("text_ids")[None]
    with torch.no_grad():
        features = model.vision(images)[:, 1:]
        vectors.close("out.vit_features", features)
        vectors.close("out.adapter", model.adapter(features))
        out = model(pixel_values=images, input_ids=ids)
        vectors.close("out.logits", out["logits"])
        vectors.close("out.text_only_logits", model(input_ids=text)["logits"])
        spliced = model.splice(text=model.embed(ids), ids=ids, vision=model.programs["encode_image"](pixel_values=images)["wrap"])
        positions = model.positions(ids=ids, spans=spliced["spans"])["positions"]
        vectors.same("out.position_ids", positions)
        vectors.same("in.vision_expert_mask", spliced["modality"])
